"""Digests that tell whether the same thing is meant: code, lock, training key."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

from pipelines.catalog import Found
from pipelines.records import CleanSnapshot
from pipelines.spec import UseCase

PACKAGE = Path(__file__).parent


def files_digest(files: Mapping[str, Path]) -> str:
    """SHA-256 over names and contents, in the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        whole.update(f"{name}\x00{len(content)}\x00".encode())
        whole.update(content)
    return whole.hexdigest()


def code_files(found: Found) -> dict[str, Path]:
    """Every file that makes the platform and that use case, by its name inside a wheel."""
    files = {f"pipelines/{file.relative_to(PACKAGE)}": file for file in _python(PACKAGE)}
    own = f"{found.module.replace('.', '/')}.py"
    if found.file is not None and own not in files:
        files[own] = found.file
    return files


def _python(folder: Path) -> Iterable[Path]:
    return (file for file in folder.rglob("*.py") if "__pycache__" not in file.parts)


def code_digest(found: Found) -> str:
    """SHA-256 of the code, also where there is no git."""
    return files_digest(code_files(found))


def lock_digest() -> str:
    """SHA-256 of names and versions of everything installed."""
    installed = sorted({f"{each.name}=={each.version}" for each in distributions()})
    return hashlib.sha256("\n".join(installed).encode()).hexdigest()


def git_commit() -> str | None:
    """The checkout's commit, `+changes` behind it when the tree differs; None without git."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


def training_key(found: Found, use_case: UseCase, snapshot: CleanSnapshot) -> str:
    """SHA-256 of use case, data, code, lock, seed and parameters: the same key means the same candidate."""
    parts = [part.model_dump(mode="json") for part in use_case.parts]
    told = [use_case.name, snapshot.digest, code_digest(found), lock_digest(), use_case.seed, parts]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
