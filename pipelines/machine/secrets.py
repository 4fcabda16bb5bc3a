"""Generated secrets: one file each in HOME/secrets, mode 600, made once and never changed."""

import base64
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import SecretStr

from pipelines.settings import SECRET, Home, Settings

POSTGRES_ROLES = ("postgres", "airflow", "mlflow", "touchline")
"""`postgres` is the superuser; each of the others owns the database of its name."""
AIRFLOW_PASSWORDS = "airflow-passwords.json"


def _password() -> str:
    return secrets.token_urlsafe(24)


def _long() -> str:
    return secrets.token_urlsafe(64)


def _fernet() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


MADE: Mapping[str, Callable[[], str]] = {
    **{f"postgres-{role}": _password for role in POSTGRES_ROLES},
    "airflow-fernet": _fernet,
    "airflow-jwt": _long,
    "airflow-api": _long,
    "airflow-admin": _password,
    "mlflow-webhook": _fernet,
}
"""Every secret by its file name, and how it is made."""


def generate(home: Home) -> None:
    """Make every secret that is not there yet; Airflow's own password file repeats `airflow-admin`."""
    home.secrets.mkdir(parents=True, exist_ok=True)
    home.secrets.chmod(0o700)
    for name, make in MADE.items():
        if not (home.secrets / name).exists():
            write(home.secrets / name, make() + "\n")
    write(home.secrets / AIRFLOW_PASSWORDS, json.dumps({"admin": home.secret("airflow-admin")}) + "\n")


def keep(settings: Settings) -> None:
    """Settings that hold passwords or tokens are kept for every later command, beside the generated secrets."""
    kept = {name: _plain(getattr(settings, name)) for name in sorted(SECRET & settings.model_fields_set)}
    if kept:
        write(settings.at.secret_settings, json.dumps(kept, indent=1) + "\n")
    for role, own in (("airflow", settings.airflow_database_url), ("mlflow", settings.mlflow_database_url)):
        if own is not None:  # in SQLAlchemy's form, for services and shells that read it from here
            address = own.get_secret_value().partition("://")[2]
            write(settings.at.secrets / f"{role}-database", f"postgresql+psycopg2://{address}\n")


def _plain(value: SecretStr | tuple[SecretStr, ...] | None) -> str | list[str] | None:
    if isinstance(value, tuple):
        return [each.get_secret_value() for each in value]
    return None if value is None else value.get_secret_value()


def write(file: Path, text: str) -> None:
    """Write a file that only its owner may read; it is there whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    Path(partial).replace(file)
