"""Dumps by PostgreSQL's own tool, before an upgrade changes anything."""

import subprocess

import psycopg
import pytest

from pipelines import settings as settings_of
from pipelines.errors import CannotStart
from pipelines.machine import dump
from pipelines.machine import postgres as server


@pytest.fixture
def settings(postgres):
    return settings_of.load(home=postgres.home.root, base_port=postgres.port - 3)


def test_every_database_is_dumped_whole_and_can_be_restored(postgres, settings):
    with psycopg.connect(postgres.url("touchline"), autocommit=True) as connection:
        connection.execute("create table if not exists kept as select 'a row' as what")
    folder = dump.all_databases(settings, 1)
    assert {file.name for file in folder.iterdir()} == {"airflow.dump", "mlflow.dump", "touchline.dump"}
    assert folder.name.startswith("layout-1-")
    listed = subprocess.run(
        [str(server.wheel() / "pg_restore"), "--data-only", "--table=kept", "--file=-", folder / "touchline.dump"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "a row" in listed.stdout
    with psycopg.connect(postgres.url("touchline"), autocommit=True) as connection:
        connection.execute("drop table kept")


def test_a_database_of_the_users_own_is_dumped_by_its_address(postgres, settings):
    own = {f"{name}database_url": postgres.url(role) for name, role in (
        ("", "touchline"), ("airflow_", "airflow"), ("mlflow_", "mlflow")
    )}  # fmt: skip
    folder = dump.all_databases(settings_of.load(home=settings.home, **own), 1)
    assert len(list(folder.iterdir())) == 3


def test_a_dump_that_fails_stops_the_upgrade_and_names_no_password(postgres, settings):
    wrong = postgres.url("touchline").replace(postgres.home.secret("postgres-touchline"), "no-such-word")
    own = dict.fromkeys(("database_url", "airflow_database_url", "mlflow_database_url"), wrong)
    with pytest.raises(CannotStart, match="touchline could not be dumped, so nothing is changed") as refused:
        dump.all_databases(settings_of.load(home=settings.home, **own), 1)
    assert "no-such-word" not in str(refused.value)
    assert not [
        folder
        for folder in settings.at.backups.glob("layout-*")
        if folder.suffix != ".partial" and not any(folder.iterdir())
    ]
