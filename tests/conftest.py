"""What every test may ask for: a home of its own, a free port, a PostgreSQL of its own."""

import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from pipelines.machine import postgres as server
from pipelines.machine import secrets
from pipelines.settings import Home

# a busy machine is slow: no property is judged by its time
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Poll until the condition holds; a generous limit, because the machine may be busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for: {what}")
        time.sleep(0.1)


class Postgres(NamedTuple):
    """A running server."""

    home: Home
    port: int
    cluster: server.Cluster

    def url(self, role: str) -> str:
        """`postgresql://role:password@127.0.0.1:port/role`; roles: airflow, mlflow, touchline, postgres."""
        return server.url(self.home, role, self.port)


@pytest.fixture(autouse=True)
def heard() -> None:
    """A command sets how much the platform logs, for its process; tests share one, and each begins anew."""
    logging.getLogger("pipelines").setLevel(logging.NOTSET)


@pytest.fixture
def home() -> Iterator[Home]:
    """An empty home with a short path: unix sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="touchline-"))
    yield Home(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL with the three databases, alone for these tests; gone afterwards, whole."""
    with running_postgres() as server:
        yield server


@contextmanager
def running_postgres() -> Generator[Postgres]:
    """Started here and gone afterwards.

    Its keeper stops it also when the tests are killed.
    """
    home = Home(Path(tempfile.mkdtemp(prefix="touchline-pg-")))
    secrets.generate(home)
    cluster, port = server.prepare(home), free_port()
    account = ("--account", cluster.account) if cluster.account else ()
    kept = (sys.executable, "-m", "pipelines.machine.keeper", "postgres", "--note", str(home.root / "note"))
    with (home.root / "postgres.log").open("wb") as log:
        process = subprocess.Popen(
            [*kept, "--stop", "INT", "--grace", "30", *account, "--", *cluster.command(port)],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: server.is_ready(cluster, port), "PostgreSQL to take connections")
        server.create_databases(home, port)
        yield Postgres(home, port, cluster)
    finally:
        process.terminate()
        process.wait(60)
        server.remove(home)
        shutil.rmtree(home.root)
