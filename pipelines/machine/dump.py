"""Dumps of all databases of a home, by PostgreSQL's own tool, before anything in them is changed."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from pipelines.errors import CannotStart
from pipelines.machine import postgres
from pipelines.settings import DATABASES, Settings

FROM_CONNINFO = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
}
"""What the tool reads from its environment, so that no password stands in a command line."""


def all_databases(settings: Settings, layout: int) -> Path:
    """Dump each into a new folder of the home; the folder, which has its name only when all are whole.

    CannotStart when one cannot be dumped: then nothing was changed. Back again: `pg_restore --clean -d …`.
    """
    name = f"layout-{layout}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    folder = settings.at.backups / name
    partial = folder.with_name(f"{name}.partial")
    partial.mkdir(parents=True, mode=0o700)
    for database, url in _urls(settings).items():
        _dump(url, partial / f"{database}.dump")
    partial.rename(folder)
    return folder


def _urls(settings: Settings) -> dict[str, str]:
    if settings.embedded:
        return {role: postgres.url(settings.at, role, settings.ports.postgres) for role in postgres.DATABASES}
    names = ("touchline", "airflow", "mlflow")
    return {name: getattr(settings, own).get_secret_value() for name, own in zip(names, DATABASES, strict=True)}


def _dump(url: str, file: Path) -> None:
    told = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    known = {FROM_CONNINFO[name]: value for name, value in told.items() if name in FROM_CONNINFO}
    done = subprocess.run(
        [str(postgres.wheel() / "pg_dump"), "--format=custom", "--no-password", f"--file={file}"],
        env={**os.environ, **known},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotStart(f"{file.stem} could not be dumped, so nothing is changed: {done.stderr.strip()[-400:]}")
