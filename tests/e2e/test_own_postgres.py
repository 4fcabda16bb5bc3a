"""A PostgreSQL that the user already has, by settings only: nothing of our own is started beside it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Postgres, wait_for
from tests.e2e.conftest import Stack, fill, free_block

DATABASES = {"": "touchline", "AIRFLOW_": "airflow", "MLFLOW_": "mlflow"}


@pytest.fixture
def databases(postgres: Postgres) -> Iterator[dict[str, str]]:
    """Three empty databases, each owned by its role; their addresses by setting."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
        for role in DATABASES.values():
            words = sql.SQL("create database {} owner {}").format(
                sql.Identifier(f"own_{role}"), sql.Identifier(role)
            )
            server.execute(words)
    yield {
        f"TOUCHLINE_{prefix}DATABASE_URL": f"{postgres.url(role).rpartition('/')[0]}/own_{role}"
        for prefix, role in DATABASES.items()
    }
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
        for role in DATABASES.values():
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(f"own_{role}")))


def test_the_whole_loop_runs_on_it_and_the_home_keeps_its_addresses_secret(databases, postgres):
    home, data = Path(tempfile.mkdtemp(prefix="tl-own-")), Path(tempfile.mkdtemp(prefix="tl-drop-"))
    fill(data, 0)
    stack = Stack(home / "home", free_block(), data)
    stack.environment |= databases
    try:
        output = stack.run("up", "--detach")
        assert '"model_version": "1"' in output
        for name in databases:
            del stack.environment[name]
        told = stack.status()
        assert told["postgres_files"] is None
        assert "postgres" not in {service["name"] for service in told["services"]}
        answered = stack.ask("/calories/predict", stack.row(prediction_id="own"))
        assert answered.status == 200
        assert stack.ask("/calories/labels", {"prediction_id": "own", "actual": 230.0}).status == 202
        wait_for(lambda: sum(each["labelled"] for each in stack.case()["labels"]) == 1, "the label", 60)
        secret = postgres.home.secret("postgres-airflow")
        assert secret not in stack.run("env") + output + (stack.home / "settings.json").read_text()
    finally:
        stack.run("down", "--purge")
        shutil.rmtree(home)
        shutil.rmtree(data)


def test_a_database_that_does_not_answer_stops_the_start_and_names_its_setting(home):
    own = {f"TOUCHLINE_{prefix}DATABASE_URL": "postgresql://nobody:word@127.0.0.1:9/x" for prefix in DATABASES}
    stack = Stack(home.root / "home", free_block(), home.root)
    stack.environment |= own
    told = stack.run("up", "--detach", code=1)
    assert "TOUCHLINE_DATABASE_URL: " in told
    assert "word" not in told.replace("password", "")
    stack.run("down", "--purge")
