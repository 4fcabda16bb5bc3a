"""A small disk in memory, to be filled."""

import contextlib
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def small_disk(at: Path, size: str) -> Generator[str]:
    """A disk in memory over an empty folder; why there is none, where this account may not mount."""
    at.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(at)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        yield f"no small disk: {made.stderr.strip()[:120]}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", str(at)], capture_output=True, check=True)


@contextmanager
def filled(at: Path) -> Generator[None]:
    """Not one byte of room while the block runs."""
    ballast = at / "ballast"
    with ballast.open("wb", buffering=0) as out:
        _fill(out)
        try:
            yield
        finally:
            ballast.unlink()


def _fill(out: BinaryIO) -> None:
    """Large pieces, then small ones."""
    for size in (2**20, 4096, 1):
        with contextlib.suppress(OSError):
            while out.write(b"\0" * size):
                pass
