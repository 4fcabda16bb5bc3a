"""`python -m tests.benchmarks.peers [peer …]`: the same model behind other servers, and behind Touchline.

Each beside the bare endpoint in the same run, so that all stand beside one measure; who is not measured now keeps
the figures of its last run. The environments are made from the pinned names in this folder when they are not there
yet, and kept in `.results/peers`.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.benchmarks.peers import NAMES, TABLE, kept, table
from tests.benchmarks.serving import bare, exchange, platform
from tests.conftest import free_port, wait_for
from tests.places import answers, make_bento
from tests.releases import ROW, make_release

HERE = Path(__file__).parent
ENVIRONMENTS = Path(".results").absolute() / "peers"
TURNS, SECONDS = 5, 1.0
QUIET = {
    "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "BENTOML_DO_NOT_TRACK": "True",
    "OMP_NUM_THREADS": "1", "LITSERVE_DISABLE_TELEMETRY": "true",
}  # fmt: skip
FEATURES = [68.0, 190.0, 94.0, 29.0, 105.0, 40.8, 1.0, 3045.0]


class Peer(NamedTuple):
    """How one is started and asked."""

    command: Callable[[Path, Path, int], list[str]]
    """From its `bin` folder, a folder to work in, and a port."""
    path: str
    body: object
    ready: str


def _mlflow(bin_: Path, work: Path, port: int) -> list[str]:
    subprocess.run(
        [bin_ / "python", HERE / "mlflow_peer.py", work / "model"], check=True, env=_environment(bin_, work)
    )
    return [
        str(bin_ / "mlflow"), "models", "serve", "-m", str(work / "model"), "-p", str(port), "-h", "127.0.0.1",
        "--env-manager", "local", "-w", "1",
    ]  # fmt: skip


PEERS = {
    "fastapi": Peer(
        lambda bin_, _, port: [
            str(bin_ / "uvicorn"), "fastapi_peer:app", "--app-dir", str(HERE), "--port", str(port),
            "--no-access-log",
        ],
        "/predict", ROW, "/readyz",
    ),
    "bentoml": Peer(
        lambda bin_, _, port: [
            str(bin_ / "bentoml"), "serve", "bentoml_peer:Peer", "--working-dir", str(HERE), "--port", str(port),
            "--host", "127.0.0.1",
        ],
        "/predict", {"row": ROW}, "/readyz",
    ),
    "litserve": Peer(
        lambda bin_, _, port: [str(bin_ / "python"), str(HERE / "litserve_peer.py"), str(port)],
        "/predict", ROW, "/health",
    ),
    "mlflow": Peer(_mlflow, "/invocations", {"inputs": [FEATURES]}, "/ping"),
}  # fmt: skip


class Load(NamedTuple):
    """What one showed, medians of the turns."""

    p50_ms: float
    per_second: float
    cpu_us: float
    memory_mib: float


def main() -> None:
    """Measure; some ten minutes with the environments."""
    root = Path(tempfile.mkdtemp(prefix="peers-"))
    told: list[dict[str, Any]] = []
    try:
        release = make_release(root / "release", trees=200)
        os.environ["BOOSTER"] = str(release / "energy.ubj")
        for name in sys.argv[1:] or NAMES:
            sys.stderr.write(f"{name} …\n")
            with _serving(name, release, root) as other, bare(release, root) as reference:
                base = (reference.port, "/predict", ROW, lambda: [reference.server])
                pairs = [(_load(*base), _load(*other)) for _ in range(TURNS)]
            told.append(_told(name, pairs))
    finally:
        shutil.rmtree(root)
    TABLE.parent.mkdir(exist_ok=True)
    measured = {each["peer"]: each for each in [*kept(), *told]}
    whole = [measured[name] for name in NAMES if name in measured]
    TABLE.write_text(json.dumps(whole, indent=1) + "\n")
    sys.stdout.write(table(whole))


def _load(port: int, path: str, body: object, processes: Callable[[], list[psutil.Process]]) -> Load:
    one = exchange(port, path, body, 1, SECONDS)
    found = processes()
    before = sum(map(_cpu, found))
    many = exchange(port, path, body, 32, SECONDS)
    cpu = sum(map(_cpu, found)) - before
    memory = sum(each.memory_info().rss for each in found) / 2**20
    return Load(statistics.median(one) * 1e3, len(many) / SECONDS, cpu / len(many) * 1e6, memory)


def _told(name: str, pairs: list[tuple[Load, Load]]) -> dict[str, Any]:
    medians = {field: statistics.median(getattr(ours, field) for _, ours in pairs) for field in Load._fields}
    ratios = {
        f"{field}_ratio": statistics.median(getattr(ours, field) / getattr(other, field) for other, ours in pairs)
        for field in Load._fields
    }
    return {"peer": name, **medians, **ratios}


Asked = tuple[int, str, object, Callable[[], list[psutil.Process]]]


@contextmanager
def _serving(name: str, release: Path, root: Path) -> Generator[Asked]:
    if name == "touchline":
        with platform(make_bento(release, "1", root / "store").path, root) as target:
            yield target.port, f"{target.path}/predict", ROW, target.processes
        return
    bin_, port, work = _environment_of(name), free_port(), root / name
    work.mkdir()
    peer = PEERS[name]
    words = peer.command(bin_, work, port)
    with (root / f"{name}.log").open("w") as log:
        process = subprocess.Popen(words, env=_environment(bin_, work), stdout=log, stderr=log, cwd=work)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}{peer.ready}"), f"{name}: {root / name}.log", 180)
        yield port, peer.path, peer.body, lambda: _whole(process.pid)
    finally:
        for each in _whole(process.pid):
            each.kill()
        process.wait(30)


def _whole(pid: int) -> list[psutil.Process]:
    """A process and all below it; workers may have groups and sessions of their own."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def _environment_of(name: str) -> Path:
    """The `bin` folder of its environment."""
    venv = ENVIRONMENTS / name
    if not (venv / "made").exists():
        subprocess.run(["uv", "venv", "-q", "--clear", venv], check=True)
        install = ["uv", "pip", "install", "-q", "--compile-bytecode", "--python", venv / "bin" / "python"]
        subprocess.run([*install, "-r", HERE / f"{name}.txt"], check=True)
        (venv / "made").touch()
    return venv / "bin"


def _environment(bin_: Path, work: Path) -> dict[str, str]:
    own = {"PATH": f"{bin_}{os.pathsep}{os.defpath}", "HOME": str(work), "BENTOML_HOME": str(work / "bentoml")}
    return {**QUIET, **own, "BOOSTER": os.environ["BOOSTER"]}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
