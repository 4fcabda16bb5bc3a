"""`python -m tests.benchmarks.data`: a million rows with ten thousand broken ones, there and back."""

import logging
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.unit.test_many_broken_rows import broken_and_back

ROWS, BROKEN = 1_000_000, 10_000


def main() -> None:
    """Print what was found, how long it took, and the most memory that the process held."""
    logging.disable(logging.WARNING)
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        arrived, waiting, reasons, replayed, after = broken_and_back(Path(folder), ROWS, BROKEN)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(
        f"ingested {arrived}\nwaiting {waiting}, reasons {reasons}\nreplayed {replayed}, then {after}\n"
    )
    sys.stdout.write(f"{seconds:.1f} s in all, at most {peak} MiB\n")


if __name__ == "__main__":
    main()
