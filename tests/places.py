"""Real bentos and real places for contract tests and benchmarks."""

import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bentos.build import Built, build
from pipelines import catalog, provenance
from pipelines.adapters import haproxy
from pipelines.serving import place
from tests.builders import LOCK
from tests.conftest import free_port, wait_for


def make_bento(release: Path, version: str, store: Path, found: catalog.Found | None = None) -> Built:
    """Build from the release and today's code, as a tracked model holds them."""
    with TemporaryDirectory() as made:
        model, here = Path(made), found or catalog.locate("calories")
        shutil.copytree(release, model / "release")
        provenance.copy_code(here, model / "code")
        return build(model, here.name, version, store, LOCK, {"training_key": f"test-{version}"})


def answers(url: str, seconds: float = 2) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=seconds) as got:
            return got.status == 200
    except (urllib.error.URLError, OSError):
        return False


def reachable(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as line:
        return line.connect_ex(str(path)) == 0


class Running:
    """One place and what is needed to end it."""

    def __init__(self, bento: Path, name: str, root: Path) -> None:
        self.name = name
        self.port = free_port()
        self.spool = root / "spool" / "calories" / name
        code = place.unpack(bento, root / "places")
        words, environment = place.command(bento, self.port, name, self.spool, code)
        self.log = root / f"{name}-{self.port}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd="/")

    def ready(self) -> None:
        wait_for(lambda: answers(f"http://127.0.0.1:{self.port}/readyz"), f"place {self.name}: {self.log}")

    def kill(self, by: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(by)
        self.process.wait(30)


@contextmanager
def starting(bento: Path, root: Path) -> Generator[Callable[[str], Running]]:
    """Start places at will; none is left afterwards."""
    running: list[Running] = []

    def start(name: str) -> Running:
        running.append(Running(bento, name, root))
        running[-1].ready()
        return running[-1]

    try:
        yield start
    finally:
        for one in running:
            one.kill()


def listening(port: int) -> list[psutil.Process]:
    """Processes below this one that listen there or have a connection; others may end while they are looked at."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(at.laddr.port == port for at in each.net_connections("tcp")):
                found.append(each)
    return found


@contextmanager
def proxied(folder: Path) -> Generator[haproxy.HAProxy]:
    """A running HAProxy without a use case; gone afterwards."""
    port = free_port()
    proxy = haproxy.HAProxy(folder, port)
    proxy.write(())
    words = haproxy.command(folder)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/livez"), "the proxy")
        wait_for(lambda: reachable(folder / "master.sock"), "the proxy's master, which takes reloads")
        yield proxy
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.wait(30)
