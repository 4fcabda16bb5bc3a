"""The embedded PostgreSQL, really set up and really started."""

import os
import signal
import stat
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from pipelines.machine import keeper, secrets, services
from pipelines.machine import postgres as server
from pipelines.machine.supervisor import Supervisor
from pipelines.settings import Home
from tests.conftest import Postgres, free_port, wait_for


@pytest.mark.parametrize("role", server.DATABASES)
def test_each_role_owns_the_database_of_its_name(postgres: Postgres, role: str) -> None:
    with psycopg.connect(postgres.url(role)) as connection:
        connection.execute("create table public.proof (n int)")
        owner = connection.execute("select tableowner from pg_tables where tablename = 'proof'").fetchone()
        connection.rollback()
    assert owner == (role,)


def test_a_role_cannot_enter_the_database_of_another(postgres: Postgres) -> None:
    elsewhere = postgres.url("mlflow").removesuffix("/mlflow") + "/airflow"
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(elsewhere)


def test_a_wrong_password_is_refused(postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://touchline:wrong@127.0.0.1:{postgres.port}/touchline")


def test_preparing_twice_keeps_the_cluster(postgres: Postgres) -> None:
    before = (postgres.cluster.data / "PG_VERSION").stat().st_ino
    assert server.prepare(postgres.home) == postgres.cluster
    server.create_databases(postgres.home, postgres.port)
    assert (postgres.cluster.data / "PG_VERSION").stat().st_ino == before


def test_a_half_made_cluster_is_made_anew(home: Home) -> None:
    secrets.generate(home)
    half = server.prepare(home)
    half.data.rename(half.data.with_suffix(".new"))
    assert (server.prepare(home).data / "PG_VERSION").read_text().strip() == str(server.MAJOR)
    server.remove(home)
    assert not half.root.exists()


def test_no_secret_can_be_read_by_others_or_changes(home: Home) -> None:
    secrets.generate(home)
    before = {file.name: file.read_text() for file in home.secrets.iterdir()}
    secrets.generate(home)
    assert {file.name: file.read_text() for file in home.secrets.iterdir()} == before
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in home.secrets.iterdir()} == {0o600}


@pytest.fixture
def supervised(home: Home) -> Iterator[tuple[Home, Supervisor, int]]:
    """A cluster of its own, started the way `up` starts it."""
    secrets.generate(home)
    server.prepare(home)
    supervisor, port = Supervisor(home), free_port()
    supervisor.start((services.database(home, port),))
    wait_for(lambda: keeper.answers(f"pg:{port}"), "the database")
    server.create_databases(home, port)
    yield home, supervisor, port
    supervisor.stop()
    server.remove(home)


def postmaster(home: Home) -> int:
    return int((server.cluster(home).data / "postmaster.pid").read_text().split()[0])


def test_what_was_acknowledged_survives_kill_9(supervised: tuple[Home, Supervisor, int]) -> None:
    home, _, port = supervised
    with psycopg.connect(server.url(home, "touchline", port), autocommit=True) as connection:
        connection.execute("create table kept as select generate_series(1, 1000) as n")
        old = postmaster(home)
        os.kill(old, signal.SIGKILL)
    wait_for(lambda: not keeper.seen(old) and keeper.answers(f"pg:{port}"), "the database to come back")
    with psycopg.connect(server.url(home, "touchline", port)) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (1000,)


def test_a_pid_file_that_names_a_living_stranger_does_not_stop_it(
    supervised: tuple[Home, Supervisor, int],
) -> None:
    home, supervisor, port = supervised
    supervisor.remove("postgres")
    here = server.cluster(home)
    with subprocess.Popen(["sleep", "600"], cwd="/", **server.as_account(here.account)) as stranger:
        (here.data / "postmaster.pid").write_text(f"{stranger.pid}\n{here.data}\n")
        supervisor.add(services.database(home, port))
        wait_for(lambda: keeper.answers(f"pg:{port}"), "the database to start all the same")
        assert stranger.poll() is None
        stranger.kill()
