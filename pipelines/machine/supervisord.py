"""`python -m pipelines.machine.supervisord`: supervisord, made to live through a full disk.

A log that cannot be written is reported on standard error. That is a file on the same disk, so the report
fails too, and that failure would end supervisord and with it everything that runs.
"""

import contextlib
import sys
from typing import TextIO

from supervisor import supervisord


class Patient:
    """A stream whose words are lost while they cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """All of it, or nothing."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def fileno(self) -> int:
        """Of the stream itself."""
        return self._stream.fileno()


def main() -> None:
    """Run it."""
    sys.stderr = Patient(sys.stderr)
    supervisord.main()


if __name__ == "__main__":
    main()
