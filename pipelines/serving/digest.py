"""What a folder holds, as one number: releases and bentos are known by it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_IGNORED = {"__pycache__", "bentofile.yaml"}


def of_files(files: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 over names and contents, in the order of the names."""
    whole = hashlib.sha256()
    for name, content in sorted(files):
        whole.update(f"{len(name.encode())}:{name}:{len(content)}:".encode())
        whole.update(content)
    return whole.hexdigest()


def of_folder(folder: Path) -> str:
    """SHA-256 over every file below the folder, byte code and BentoML's own note aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and not _IGNORED & {*path.parts})
    return of_files((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files)
