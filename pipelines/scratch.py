"""Temporary folders that a killed process leaves to nobody: the next one that needs such a folder removes them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

LOCK = ".lock"


@contextmanager
def scratch(name: str) -> Generator[Path]:
    """An empty folder `touchline-<name>-…` in the system's temporary folder, gone afterwards.

    The lock beside it is held as long as it is used; the system takes it from a killed process.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"touchline-{name}-*{LOCK}"):
        _remove_left(lock)
    with _locked(name) as lock:
        folder = _folder(lock)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
            lock.unlink()


def _folder(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix(LOCK))


@contextmanager
def _locked(name: str) -> Generator[Path]:
    """A new lock file that is held; one that somebody took for a left one, before it was held, is made anew."""
    while True:
        with NamedTemporaryFile(prefix=f"touchline-{name}-", suffix=LOCK, delete=False) as file:
            if _held(file):
                yield Path(file.name)
                return


def _remove_left(lock: Path) -> None:
    try:
        with lock.open() as file:
            if _held(file):
                shutil.rmtree(_folder(lock), ignore_errors=True)
                if not _folder(lock).exists():  # else the next one tries again
                    lock.unlink()
    except (FileNotFoundError, PermissionError):
        return  # another one removed it; another user's


def _held(file: IO[str] | IO[bytes]) -> bool:
    """Whether the lock is ours now, and the file still has its name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0
