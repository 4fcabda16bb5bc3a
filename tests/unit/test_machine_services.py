"""The declaration of all services, and the shell lines that reach a home."""

import os
import subprocess
from pathlib import Path

import pytest

from pipelines import settings as settings_of
from pipelines.errors import BadSettings
from pipelines.machine import postgres, secrets, services
from pipelines.machine.front import Tail
from pipelines.machine.services import Service
from pipelines.machine.status import exports
from pipelines.settings import Home, Settings


@pytest.fixture
def settings(home: Home, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with secrets and the record of a cluster; nothing is started."""
    monkeypatch.delenv("TOUCHLINE_HOME", raising=False)
    secrets.generate(home)
    (home.root / postgres.RECORD).write_text('{"root": "/srv/pg", "account": null, "binaries": "/srv/pg/bin"}')
    return settings_of.load(home=home.root, base_port=7600, notify=["https://hook/hidden"])


@pytest.fixture
def declared(settings: Settings) -> dict[str, Service]:
    return {one.name: one for one in services.declared(settings)}


def test_no_command_line_shows_a_secret(declared: dict[str, Service], settings: Settings) -> None:
    kept = {file.read_text().strip() for file in settings.at.secrets.iterdir()}
    for one in declared.values():
        assert not any(secret in part for secret in kept for part in one.command)


def test_every_service_that_listens_binds_to_loopback(declared: dict[str, Service]) -> None:
    mlflow = declared["mlflow"].command
    assert mlflow[mlflow.index("--host") + 1] == "127.0.0.1"
    assert declared["airflow-api-server"].environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert "listen_addresses=127.0.0.1" in declared["postgres"].command
    for part in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in declared[f"airflow-{part}"].command


def test_the_scheduler_waits_for_the_api_server_and_all_of_airflow_for_the_database(
    declared: dict[str, Service],
) -> None:
    assert "http:7601/api/v2/version" in declared["airflow-scheduler"].after
    for part in ("api-server", "scheduler", "dag-processor", "triggerer"):
        assert "pg:7603" in declared[f"airflow-{part}"].after


def test_the_database_stops_last_and_by_its_own_signal(declared: dict[str, Service]) -> None:
    database = declared["postgres"]
    assert database.priority < min(one.priority for one in declared.values() if one is not database)
    assert database.stop == "INT"


def test_airflow_never_runs_on_sqlite(declared: dict[str, Service]) -> None:
    url = declared["airflow-scheduler"].environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert url.startswith("postgresql+psycopg2://airflow:")


def test_the_proxy_has_no_secret_and_the_platforms_processes_find_their_home(
    declared: dict[str, Service], settings: Settings
) -> None:
    assert declared["proxy"].environment == {}
    for name in ("reconciler", "shipper", "airflow-scheduler"):
        assert declared[name].environment["TOUCHLINE_HOME"] == str(settings.home)
        assert "hidden" not in str(declared[name].environment)


OWN = {
    "database_url": "postgresql://t:hidden@db:5/touchline",
    "airflow_database_url": "postgresql://a:hidden@db:5/airflow?sslmode=require",
    "mlflow_database_url": "postgresql://m:hidden@db:5/mlflow",
}


def test_a_postgresql_of_the_users_own_replaces_the_embedded_one_everywhere(settings: Settings) -> None:
    own = settings_of.load(home=settings.home, base_port=7600, **OWN)
    secrets.keep(own)
    again = settings_of.load(home=settings.home, base_port=7600)
    assert again.database == OWN["database_url"]
    declared = {one.name: one for one in services.declared(again)}
    assert "postgres" not in declared
    assert not any(need.startswith("pg:") for one in declared.values() for need in one.after)
    airflow = declared["airflow-scheduler"].environment
    assert (
        airflow["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        == "postgresql+psycopg2://a:hidden@db:5/airflow?sslmode=require"
    )
    assert (
        declared["mlflow"].environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://m:hidden@db:5/mlflow"
    )
    assert "hidden" not in str(declared["reconciler"].environment) + exports(again)
    assert all(file.stat().st_mode & 0o077 == 0 for file in again.at.secrets.iterdir())


def test_one_database_of_three_is_refused_by_the_names_of_the_others(settings: Settings) -> None:
    with pytest.raises(
        BadSettings, match="TOUCHLINE_AIRFLOW_DATABASE_URL, TOUCHLINE_MLFLOW_DATABASE_URL is missing"
    ):
        settings_of.load(home=settings.home, database_url=OWN["database_url"])


def test_variables_that_lead_elsewhere_reach_no_service() -> None:
    given = {"PYTHONDONTWRITEBYTECODE": "1", "AIRFLOW_HOME": "/x", "TOUCHLINE_HOME": "/y", "LANG": "C"}
    kept = services.base_environment({**given, "PATH": "/bin"})
    assert set(kept) == {"LANG", "PATH"}
    assert kept["PATH"].endswith(f"{os.pathsep}/bin")


def test_a_shell_that_evaluates_the_exports_reads_the_secrets_from_their_files(settings: Settings) -> None:
    lines = exports(settings)
    told = subprocess.run(
        [
            "sh",
            "-euc",
            'eval "$1"; printf "%s %s" "$AIRFLOW__API_AUTH__JWT_SECRET" "$BENTOML_HOME"',
            "sh",
            lines,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    jwt = settings.at.secret("airflow-jwt")
    assert told.stdout == f"{jwt} {settings.at.bentoml}"
    assert jwt not in lines
    assert "hidden" not in lines


def test_the_foreground_shows_whole_new_lines_across_rotation(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("old\n")
    tail = Tail(tmp_path)
    with log.open("a") as out:
        out.write("one\nhal")
    assert list(tail.lines()) == [("api", "one")]
    with log.open("a") as out:
        out.write("f\n")
    assert list(tail.lines()) == [("api", "half")]
    log.rename(tmp_path / "api.log.1")
    log.write_text("fresh\n")
    (tmp_path / "late.log").write_text("hello\n")
    assert list(tail.lines()) == [("api", "fresh"), ("late", "hello")]
