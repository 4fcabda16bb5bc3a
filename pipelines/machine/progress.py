"""What a person sees while `up` and `down` work: one line a step, with its seconds."""

import contextlib
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
DIM, RED = 2, 31


def say(text: str = "") -> None:
    """One line, at once."""
    _write(f"{text}\n")


def _write(text: str) -> None:
    """A terminal that was closed must not keep the services from being stopped."""
    with contextlib.suppress(OSError):
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def step(what: str) -> Generator[None, None, None]:
    """A line when the work starts, its seconds when it is done."""
    begun = time.monotonic()
    _write(f"  {what} … ")
    try:
        yield
    except BaseException:
        say(paint("failed", RED))
        raise
    say(f"{time.monotonic() - begun:.1f} s")


def paint(text: str, colour: int) -> str:
    """Coloured on a terminal, plain elsewhere."""
    return f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() else text


def prefix(name: str, width: int) -> str:
    """A service's name in front of its lines, always in the same colour."""
    return paint(f"{name:<{width}} |", COLOURS[sum(name.encode()) % len(COLOURS)])
