"""Build a bento: release, stamp, service and the code that answers, under one tag and one digest.

BentoML imports the service to build it. That happens in a process of its own, with the packed code only:
what cannot start from the bento alone is never built.
"""

import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bentos import wheels
from pipelines.errors import CheckFailed
from pipelines.records import Stamp
from pipelines.serving import digest, place

_SECONDS = 300


class Built(NamedTuple):
    """One bento in the store."""

    tag: str
    path: Path
    digest: str
    """SHA-256 over the files of `src`."""
    stamp: Stamp


def build(model: Path, use_case: str, version: str, store: Path, lock: Path, evidence: Mapping[str, Any]) -> Built:
    """Build the bento of a registered version, or return the one that is already there and whole.

    `model` holds `release/` and the `code/` that it was trained with, `version` is the registered one, `store`
    the home of BentoML, `lock` the hash-locked requirements, `evidence` what the bento says of itself. Raises
    CheckFailed when the bento does not start.
    """
    release_digest = digest.of_folder(model / "release")
    name = f"v{version}-{release_digest[:12]}"
    final = store / "bentos" / use_case / name
    with _alone(store) as staging:
        there = _whole(final)
        if there:
            return there
        source = staging / "bento" / "src"
        shutil.copytree(model / "release", source / "release")
        stamp = Stamp(
            use_case=use_case,
            model_version=version,
            bento_tag=f"{use_case}:{name}",
            release_digest=release_digest,
            code_digest=_pack(source / "wheels", use_case, model / "code"),
            lock_digest=digest.of_files([("requirements.txt", lock.read_bytes())]),
        )
        (source / "stamp.json").write_text(stamp.model_dump_json(indent=1))
        (source / "evidence.json").write_text(json.dumps(evidence, indent=1, sort_keys=True))
        for own in ("touchline_app.py", "service.py"):
            shutil.copyfile(Path(__file__).parent / own, source / own)
        shutil.copyfile(lock, source / "requirements.txt")
        _publish(_run(staging, use_case, name, _bentofile(use_case, source)), final)
    built = _whole(final)
    if built is None:
        raise CheckFailed(f"{final}: what was built is not what was packed")
    return built


def _pack(folder: Path, use_case: str, code: Path) -> str:
    """The platform's wheel, and a second one for code that is not the platform's."""
    folder.mkdir()
    files = {path.relative_to(code).as_posix(): path.read_bytes() for path in code.rglob("*") if path.is_file()}
    platform = {name: content for name, content in files.items() if name.startswith("pipelines/")}
    own = {name: content for name, content in files.items() if name not in platform}
    wheels.pack(folder, "touchline", installed("touchline"), platform)
    if own:
        wheels.pack(folder, f"touchline_use_case_{use_case}", "0", own)
    return digest.of_files(files.items())


def _bentofile(name: str, source: Path) -> dict[str, Any]:
    return {
        "service": "service:service",
        "name": name,
        "labels": {"digest": digest.of_folder(source)},
        "include": ["*"],
        "python": {
            "requirements_txt": "./requirements.txt",
            "lock_packages": False,
            "wheels": [f"./wheels/{wheel.name}" for wheel in sorted((source / "wheels").iterdir())],
        },
    }


def _run(staging: Path, name: str, version: str, bentofile: dict[str, Any]) -> Path:
    """Let BentoML build into a store of its own; the folder of the bento."""
    bento, store = staging / "bento", staging / "store"
    description = staging / "bentofile.yaml"
    description.write_text(yaml.safe_dump(bentofile))
    code = place.unpack(bento, staging / "places")
    words = [sys.executable, "-P", "-m", "bentoml", "build", "--bentofile", str(description)]
    words += ["--version", version, str(bento / "src")]
    environment = place.environment(code) | {"BENTOML_HOME": str(store)}
    try:
        subprocess.run(words, env=environment, cwd=staging, check=True, capture_output=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as failed:
        raise CheckFailed(f"{name}:{version} does not start: {failed.stderr.decode()[-2000:]}") from failed
    return store / "bentos" / name / version


def _publish(built: Path, final: Path) -> None:
    """Give the bento its place in one step; what stood there was not whole."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.new")
    for left in (partial, final):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(built, partial)
    partial.rename(final)
    (final.parent / "latest").write_text(final.name)


def _whole(path: Path) -> Built | None:
    """The bento there, when its files are still those that it was built from."""
    try:
        built_from = yaml.safe_load((path / "bento.yaml").read_text())["labels"]["digest"]
        stamp = Stamp.model_validate_json((path / "src" / "stamp.json").read_bytes())
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    found = digest.of_folder(path / "src")
    if built_from != found:
        return None
    return Built(stamp.bento_tag, path, found, stamp)


@contextmanager
def _alone(store: Path) -> Generator[Path]:
    """One build at a time in a store, each in an empty folder outside (BentoML reads no hidden path)."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".building").open("w") as held, tempfile.TemporaryDirectory() as staging:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield Path(staging)
