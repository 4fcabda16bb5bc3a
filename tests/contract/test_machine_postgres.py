"""The embedded PostgreSQL, really set up and really started."""

import stat

import psycopg
import pytest

from pipelines.machine import postgres as server
from pipelines.machine import secrets
from pipelines.settings import Home
from tests.conftest import Postgres


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
