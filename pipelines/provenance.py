"""Digests that tell whether the same thing is meant: code, lock, training key."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from pipelines.catalog import PACKAGE as FOLDERS
from pipelines.catalog import Found
from pipelines.errors import BadUseCase
from pipelines.records import CleanSnapshot
from pipelines.serving import digest
from pipelines.spec import UseCase

PACKAGE = Path(__file__).parent


def code_files(found: Found) -> dict[str, Path]:
    """Every file that makes the platform and that use case, by its name inside a wheel."""
    files = _below(PACKAGE)
    if found.module.startswith(f"{PACKAGE.name}."):
        return files
    if found.file is None:
        raise BadUseCase(f"{found.name}: its code cannot be found")
    if found.module.startswith(f"{FOLDERS}."):
        return files | {f"{FOLDERS}/{found.file.name}": found.file}
    return files | _installed(found.module.partition(".")[0])


def _installed(name: str) -> dict[str, Path]:
    """The whole top-level package or module that a use case was installed with."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BadUseCase(f"{name}: its code cannot be found")
    origin = Path(spec.origin)
    return _below(origin.parent) if spec.submodule_search_locations else {origin.name: origin}


def _below(folder: Path) -> dict[str, Path]:
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(folder.parent).as_posix(): file for file in files}


def copy_code(found: Found, folder: Path) -> None:
    """A release carries the code that makes its features (law L5)."""
    for name, file in code_files(found).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)


def code_digest(found: Found) -> str:
    """SHA-256 of the code, also where there is no git."""
    return digest.of_files((name, file.read_bytes()) for name, file in code_files(found).items())


def lock_digest(lock: Path) -> str:
    """SHA-256 of the hash-locked requirements."""
    return digest.of_files([(lock.name, lock.read_bytes())])


def git_commit() -> str | None:
    """The checkout's commit, `+changes` behind it when the tree differs; None without git."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


class Provenance(NamedTuple):
    """What trains, read once: a file that is edited meanwhile is another training's."""

    code_digest: str
    git_commit: str | None
    lock_digest: str


def of(found: Found, lock: Path) -> Provenance:
    """As it is now."""
    return Provenance(code_digest(found), git_commit(), lock_digest(lock))


def training_key(use_case: UseCase, snapshot: CleanSnapshot, made_by: Provenance) -> str:
    """SHA-256 of use case, data, code, lock, seed and parameters: the same key means the same candidate."""
    parts = [part.model_dump(mode="json") for part in use_case.parts]
    told = [use_case.name, snapshot.digest, made_by.code_digest, made_by.lock_digest, use_case.seed, parts]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
