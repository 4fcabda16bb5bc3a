"""The real stack, started once by the project's own command, in a home and on ports of its own."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines import catalog
from pipelines import settings as settings_of
from pipelines.machine import keeper, preflight
from pipelines.settings import Settings
from tests.builders import write_drop

UP_SECONDS = 1200
HALF = 6000


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: Any
    headers: dict[str, str]


class Hook:
    """Where notices arrive: what a person's chat would show."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Listen no more."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Stack:
    """A running home."""

    def __init__(self, home: Path, base_port: int, data: Path, hook: int = 9, cases: Path | None = None) -> None:
        """`cases`: a folder with further use cases."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHLINE_")}
        self.environment = {
            **kept,
            "TOUCHLINE_HOME": str(home),
            "TOUCHLINE_BASE_PORT": str(base_port),
            "TOUCHLINE_DATA": str(data),
            "TOUCHLINE_NOTIFY": json.dumps([f"http://127.0.0.1:{hook}/"]),
        }
        if cases is not None:
            self.environment["TOUCHLINE_USE_CASES"] = json.dumps([str(cases)])
        self.heard: list[dict[str, str]] = []
        self.data, self.output, self.cases = data, "", cases
        self.home, self.base_port = home, base_port

    @property
    def settings(self) -> Settings:
        cases = () if self.cases is None else (self.cases,)
        return settings_of.load(home=self.home, base_port=self.base_port, data=self.data, use_cases=cases)

    def run(self, *words: str, code: int | None = 0) -> str:
        """A command of the platform, as a person types it; None: however it ends."""
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *words],
            env=self.environment, capture_output=True, text=True, timeout=UP_SECONDS, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, (
            f"touchline {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout + done.stderr

    def end_of(self, service: str, lines: int = 40) -> str:
        """What it logged last."""
        log = self.settings.at.logs / f"{service}.log"
        return "\n".join(log.read_text().splitlines()[-lines:]) if log.exists() else "no log"

    def status(self) -> dict[str, Any]:
        """`touchline status --json`."""
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "status", "--json"],
            env=self.environment, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def case(self) -> dict[str, Any]:
        """The use case's part of the status."""
        told: dict[str, Any] = self.status()["use_cases"]["calories"]
        return told

    def ask(
        self, path: str, body: object = None, raw: bytes | None = None, kind: str = "application/json"
    ) -> Answer:
        """One request through the proxy."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        line = http.client.HTTPConnection("127.0.0.1", self.settings.ports.proxy, timeout=60)
        with contextlib.closing(line):
            # a body that is refused for its length is answered before it was sent whole
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                line.request("POST" if data else "GET", path, data, {"content-type": kind})
            return _answer(line.getresponse())

    def row(self, **changed: object) -> dict[str, object]:
        """A good request."""
        use_case = catalog.load("calories")
        return {**{field.name: field.example for field in use_case.inputs}, **changed}


def _answer(answer: Any) -> Answer:
    text = answer.read()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    try:
        return Answer(answer.status, json.loads(text), headers)
    except ValueError:
        return Answer(answer.status, text.decode(), headers)


def free_block() -> int:
    """A base port with a free block of 32 above it."""
    for base in range(21_000 + os.getpid() % 340 * 32, 32_700, 32):
        if free_ports(base):
            return base
    raise AssertionError("no free block of ports")


def fill(folder: Path, drop: int) -> None:
    """One half of the real persons (drop 0 or 1), or a simulated drop where there are no real files."""
    real = os.environ.get("TOUCHLINE_REAL_DATA")
    if not real:
        write_drop(catalog.load("calories"), folder, drop)
        return
    half = slice(HALF) if drop == 0 else slice(HALF, None)
    for name in ("exercise", "calories"):
        head, *rows = (Path(real) / "calories" / f"{name}.csv").read_text().splitlines()
        (folder / f"{name}-{drop}.csv").write_text("\n".join([head, *rows[half]]) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What decides on answers tells with a failure what it did last: its home is gone when somebody looks."""
    report = yield
    given = getattr(item, "funcargs", {}).values()
    running = next((each for each in given if isinstance(each, Stack)), None)
    if report.failed and running is not None:
        for name in ("reconciler", "proxy"):
            report.sections.append((f"end of {name}.log", running.end_of(name)))
    return report


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Started once a run; stopped and removed whole at its end."""
    with stack_of_its_own() as running:
        yield running
    assert not running.home.exists()
    assert free_ports(running.base_port)


@contextlib.contextmanager
def stack_of_its_own() -> Generator[Stack]:
    """One that is up; gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="tl-e2e-"))
    data = Path(tempfile.mkdtemp(prefix="tl-drop-"))
    fill(data, 0)
    hook = Hook()
    running = Stack(home / "home", free_block(), data, hook.port, _cases(home / "cases"))
    running.heard = hook.heard
    try:
        running.output = running.run("up", "--detach")
        yield running
    finally:
        running.run("down", "--purge")
        hook.close()
        shutil.rmtree(home)
        shutil.rmtree(data)


def _cases(folder: Path) -> Path:
    """The use cases whose rollouts take seconds, each with the suites of the one that it is made of."""
    folder.mkdir()
    for name, made_of in (("swift", "calories"), ("derby", "bets")):
        shutil.copyfile(Path(__file__).parents[1] / "cases" / f"{name}.py", folder / f"{name}.py")
        shutil.copytree(Path(__file__).parents[2] / "expectations" / made_of, folder / "expectations" / name)
    return folder


def descendants(pid: int) -> list[int]:
    """A keeper's service and everything below it."""
    return [one.pid for one in keeper.descendants(pid)]


def free_ports(base: int) -> bool:
    """Whether nobody listens on the block any more."""
    return all(preflight.is_free(port) for port in range(base, base + 32))
