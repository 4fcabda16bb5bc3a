"""What starts a place: its code unpacked from its bento, its command, its environment."""

import compileall
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from pipelines.errors import BadRelease
from pipelines.serving import digest

CODE, NAME, SPOOL = "TOUCHLINE_PLACE_CODE", "TOUCHLINE_PLACE", "TOUCHLINE_SPOOL"
READY_SECONDS = 2.0
GRACE_SECONDS = 10
"""How long a stopping place may take to finish what it is answering."""


def unpack(bento: Path, places: Path) -> Path:
    """Unpack the code that a bento carries into `places/<digest>` and return that folder.

    The folder gets its name only when it is whole, so a kill half-way leaves nothing that could be served.
    """
    wheels = sorted((bento / "src" / "wheels").glob("*.whl"))
    if not wheels:
        raise BadRelease(f"{bento}: carries no code (src/wheels is empty)")
    code = places / digest.of_files((wheel.name, wheel.read_bytes()) for wheel in wheels)[:32]
    if code.is_dir():
        return code
    places.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=places))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
    compileall.compile_dir(partial, stripdir=str(partial), prependdir=str(code), quiet=1)
    try:
        partial.rename(code)
    except OSError:  # another one was first; what it unpacked is the same
        shutil.rmtree(partial)
    return code


def command(bento: Path, port: int, place: str, spool: Path, code: Path) -> tuple[list[str], dict[str, str]]:
    """The command and the whole environment of one place; makes the folders that it writes to.

    `bento` is the bento's folder in the store, `spool` the place's own folder, `code` what `unpack` gave.
    """
    metrics, temporary = spool / "metrics", spool / "tmp"
    for folder in (metrics, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-P", "-m", "pipelines.serving.run", str(bento / "src"), str(port)]
    own = {
        "BENTOML_HOME": str(spool / "bentoml"),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "TMPDIR": str(temporary),  # a place that is killed leaves what it had there
        NAME: place,
        SPOOL: str(spool),
    }
    return words, environment(code) | own


def environment(code: Path) -> dict[str, str]:
    """What a process that runs a bento's code may know: nothing secret, nothing of the working tree."""
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.defpath)),
        "PYTHONPATH": str(code),
        "PYTHONUNBUFFERED": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        CODE: str(code),
    }


def is_ready(port: int) -> bool:
    """Whether a place has answered its golden rows."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=READY_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
