"""One prediction through proxy and place, log on, beside a bare endpoint with the same model.

A B A B in one run, medians of the ratios. The client is one thread with prepared requests, so that it
costs the same beside both; CPU is that of the serving processes alone.
"""

import json
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import psutil

from pipelines.rollout.proxy import Backend, Line
from pipelines.serving.hot import SCHEMA
from pipelines.use_cases.calories import USE_CASE
from tests.benchmarks import Report, Result, compared
from tests.conftest import free_port, wait_for
from tests.places import answers, listening, make_bento, proxied, starting
from tests.releases import ROW, make_release

REFERENCE = "uvicorn + Starlette + orjson + Booster.inplace_predict"
PAIRS = 50
"""Turns are short and many: a neighbour's load then falls on both sides."""
ONE_CLIENT_SECONDS = 0.25
MANY_CLIENTS = 32
MANY_CLIENTS_SECONDS = 0.3
WARM_UP_SECONDS = 0.5
BATCH = 100
STARTS = 5
WITH_SERVICE = ", BentoML's service loaded"
"""It is when somebody asks for its schema; the reference has nothing like it."""


class Load(NamedTuple):
    """What one load showed."""

    n: int
    p50_ms: float
    per_second: float
    cpu_us: float


class Target(NamedTuple):
    """Where to ask, and whose CPU counts."""

    port: int
    path: str
    server: psutil.Process
    """What holds the model."""
    processes: Callable[[], list[psutil.Process]]
    """All that a request goes through."""


def run() -> Report:
    """Measure; about two minutes."""
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        release = make_release(root / "release", trees=200)
        bento = make_bento(release, "1", root / "store").path
        with bare(release, root) as other, platform(bento, root) as own:
            under_load = [*_compared(other, own), *_memory(other, own)]
        return Report([*under_load, *_start(release, bento, root)])
    finally:
        shutil.rmtree(root)


def _compared(bare: Target, platform: Target) -> list[Result]:
    for target in (bare, platform):
        _load(target, MANY_CLIENTS, WARM_UP_SECONDS)
    one: list[tuple[Load, Load]] = []
    many: list[tuple[Load, Load]] = []
    batch: list[tuple[Load, Load]] = []
    for _ in range(PAIRS):
        for pairs, clients, seconds, rows in (
            (one, 1, ONE_CLIENT_SECONDS, 1),
            (many, MANY_CLIENTS, MANY_CLIENTS_SECONDS, 1),
            (batch, 1, ONE_CLIENT_SECONDS, BATCH),
        ):
            pairs.append((_load(bare, clients, seconds, rows), _load(platform, clients, seconds, rows)))
    return [
        _result("one prediction, 1 client, p50", "ms", one, "p50_ms", "<= 0.75"),
        _result("predictions a second, 32 clients", "/s", many, "per_second", ">= 2.5"),
        _result("CPU of one prediction, 32 clients", "us", many, "cpu_us", "<= 0.5"),
        _result("a batch of 100, 1 client, p50", "ms", batch, "p50_ms", "<= 1.2"),
    ]


def _memory(bare: Target, platform: Target) -> list[Result]:
    """Resident memory of what holds the model, after the load; then with BentoML's service loaded too."""

    def resident(what: str, aim: str) -> Result:
        pair = tuple(target.server.memory_info().rss / 2**20 for target in (bare, platform))
        return compared(f"memory of a place{what}", "MiB", REFERENCE, [(pair[0], pair[1])], aim, 1)

    alone = resident("", "< 0.8")
    assert answers(f"http://127.0.0.1:{platform.port}{platform.path}{SCHEMA}", 60)
    return [alone, resident(WITH_SERVICE, "")]


def _start(release: Path, bento: Path, root: Path) -> list[Result]:
    """CPU from the start of the process until it says that it is ready; until BentoML's service is loaded too."""

    def reference() -> float:
        with bare(release, root) as target:
            return _cpu(target.server)

    def place() -> tuple[float, float]:
        with starting(bento, root) as start:
            started = start("a")
            ready = _cpu(psutil.Process(started.process.pid))
            assert answers(f"http://127.0.0.1:{started.port}{SCHEMA}", 60)
            return ready, _cpu(psutil.Process(started.process.pid))

    pairs = [(reference(), place()) for _ in range(STARTS)]
    ready, loaded = ([(other, own[at]) for other, own in pairs] for at in (0, 1))
    leg = "CPU of a place from start to ready"
    return [
        compared(leg, "s", REFERENCE, ready, "< 0.7", STARTS),
        compared(f"{leg}{WITH_SERVICE}", "s", REFERENCE, loaded, "", STARTS),
    ]


def _result(leg: str, unit: str, pairs: list[tuple[Load, Load]], what: str, aim: str) -> Result:
    figures = [(getattr(bare, what), getattr(platform, what)) for bare, platform in pairs]
    return compared(leg, unit, REFERENCE, figures, aim, sum(platform.n for _, platform in pairs))


@contextmanager
def bare(release: Path, root: Path) -> Generator[Target]:
    port = free_port()
    words = [sys.executable, "-m", "uvicorn", "tests.benchmarks.bare:app", "--port", str(port)]
    words += ["--host", "127.0.0.1", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    environment = {"BOOSTER": str(release / "energy.ubj"), "OMP_NUM_THREADS": "1"}
    with (root / "bare.log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "the bare endpoint")
        server = psutil.Process(process.pid)
        yield Target(port, "", server, lambda: [server])
    finally:
        process.kill()
        process.wait(30)


@contextmanager
def platform(bento: Path, root: Path) -> Generator[Target]:
    with starting(bento, root) as start, proxied(root / "proxy") as proxy:
        place = start("a")
        line = Line("a", place.port, 100, "stable")
        proxy.apply((Backend("calories", timedelta(seconds=2), USE_CASE.serving.body_limit, "User_ID", (line,)),))

        server = psutil.Process(place.process.pid)
        yield Target(proxy.port, "/calories", server, lambda: [server, *listening(proxy.port)])


def _load(target: Target, clients: int, seconds: float, rows: int = 1) -> Load:
    processes = target.processes()
    before = sum(_cpu(process) for process in processes)
    times = _ask(target, clients, seconds, rows)
    cpu = sum(_cpu(process) for process in processes) - before
    return Load(len(times), statistics.median(times) * 1e3, len(times) / seconds, cpu / len(times) * 1e6)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _ask(target: Target, clients: int, seconds: float, rows: int) -> list[float]:
    path = f"{target.path}/predict{'' if rows == 1 else '/batch'}"
    return exchange(target.port, path, ROW if rows == 1 else {"rows": [ROW] * rows}, clients, seconds)


def exchange(port: int, path: str, content: object, clients: int, seconds: float) -> list[float]:
    """Keep that many requests in the air; the time of each answer. An answer that is not 200 ends it."""
    body = json.dumps(content).encode()
    request = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            line = socket.create_connection(("127.0.0.1", port))
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(line, selectors.EVENT_READ, [time.perf_counter()])
            line.sendall(request)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, _ in selector.select(1):
                _take(key, request, times)
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return times


def _take(key: selectors.SelectorKey, request: bytes, times: list[float]) -> None:
    line = key.fileobj
    assert isinstance(line, socket.socket)
    got = line.recv(65536)
    while not _whole(got):
        got += line.recv(65536)
    assert got.startswith(b"HTTP/1.1 200"), got
    now = time.perf_counter()
    times.append(now - key.data[0])
    key.data[0] = now
    line.sendall(request)


def _whole(got: bytes) -> bool:
    head, found, body = got.partition(b"\r\n\r\n")
    return bool(found) and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
