"""Command line: `touchline COMMAND`. Exit codes: 0 done, 1 a final error, 75 try again later."""

import argparse
import errno
import logging
import os
import sys

from pipelines import settings as settings_of
from pipelines.commands import (
    flow,
    label,
    machine,
    new,
    quality,
    quarantine,
    rollout,
    simulate,
    suggest,
    trace,
    validate,
)
from pipelines.errors import Final, NoRoom, TouchlineError

FINAL, AGAIN, INTERRUPTED = 1, 75, 130
NO_SPACE = os.strerror(errno.ENOSPC)
ROOMS = (machine, flow, rollout, validate, quarantine, label, quality, trace, simulate, suggest, new)


def main(argv: list[str] | None = None) -> int:
    """Run one command. An error is two lines, what and whether a repeat helps; its trace with --debug."""
    asked = parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if asked.debug else logging.WARNING)
    try:
        asked.run(asked, settings_of.load(**({"home": asked.home} if asked.home else {})))
    except TouchlineError as error:
        if asked.debug:
            raise
        return tell(asked.command, error)
    except OSError as error:
        if asked.debug:
            raise
        return tell(asked.command, refusal(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def refusal(error: OSError) -> TouchlineError:
    """What the operating system refuses it refuses again; a full disk may have room later.

    Libraries that write files themselves tell the reason in words alone.
    """
    if error.errno == errno.ENOSPC or NO_SPACE in str(error):
        return NoRoom(f"the disk is full: {error}: make room; what was begun is finished then")
    return Final(f"the operating system refuses: {error}")


def tell(command: str, error: TouchlineError) -> int:
    """Say what went wrong; the exit code."""
    final = isinstance(error, Final)
    advice = "a repeat gives the same answer" if final else "try again"
    sys.stderr.write(f"touchline {command}: {error}\n  {advice}; --debug shows where it came from\n")
    return FINAL if final else AGAIN


def parser() -> argparse.ArgumentParser:
    """All commands, room by room."""
    root = argparse.ArgumentParser(prog="touchline", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in ROOMS:
        room.add(commands)
    return root


if __name__ == "__main__":
    sys.exit(main())
