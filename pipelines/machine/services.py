"""Every process of one machine, as data: what runs, after what, with which variables, how it stops."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pipelines.adapters import haproxy
from pipelines.errors import CannotStart
from pipelines.machine import postgres
from pipelines.machine.secrets import AIRFLOW_PASSWORDS
from pipelines.settings import REMEMBERED, SECRET, Home, Settings

FOREIGN = ("PYTHON", "AIRFLOW", "MLFLOW_", "BENTOML_", "TOUCHLINE_", "SUPERVISOR_")
"""Variables of the caller's shell that reach no service."""
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
}
"""No dependency reports home."""

Secret = Callable[[str], str]
"""Turns a secret's name into its value, or into shell text that reads it."""


class Service(NamedTuple):
    """One process that supervisord keeps alive, with a keeper before it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}
    after: tuple[str, ...] = ()
    """`pg:PORT`, `tcp:PORT` or `http:PORT/path`, each awaited before the start."""
    stop: str = "TERM"
    grace: float = 10
    """Seconds between the stop signal and the kill."""
    priority: int = 500
    """The lowest starts first and stops last."""
    account: str | None = None
    lock: Path | None = None


def base_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables without those that would lead a service to another home or slow it down."""
    kept = {name: value for name, value in given.items() if not name.startswith(FOREIGN)}
    beside = str(Path(sys.executable).parent)
    return {**kept, "PATH": os.pathsep.join((beside, kept.get("PATH", os.defpath)))}


def platform_environment(settings: Settings) -> dict[str, str]:
    """What every process of the platform needs to find this home."""
    own = settings.model_fields_set - REMEMBERED - SECRET - {"home"}
    return {
        **QUIET,
        "TOUCHLINE_HOME": str(settings.home),
        **{f"TOUCHLINE_{name.upper()}": _text(getattr(settings, name)) for name in sorted(own)},
        "MLFLOW_TRACKING_URI": settings.mlflow,
        "BENTOML_HOME": str(settings.at.bentoml),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "passive",
    }


def _text(value: object) -> str:
    """A setting as its variable spells it."""
    if isinstance(value, tuple):
        return json.dumps([str(each) for each in value])
    return str(value)


def airflow_environment(settings: Settings, secret: Secret | None = None) -> dict[str, str]:
    """All of Airflow's configuration; no airflow.cfg of its own counts."""
    home, port = settings.at, settings.ports.airflow
    secret = secret or home.secret
    options = {
        "CORE__DAGS_FOLDER": str(settings.dags or shipped_dags()),
        "CORE__PLUGINS_FOLDER": str(shipped_dags() / "plugins"),
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "6",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__FERNET_KEY": secret("airflow-fernet"),
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home.secrets / AIRFLOW_PASSWORDS),
        "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "DATABASE__SQL_ALCHEMY_CONN": _database(settings, "airflow", secret),
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__WORKERS": "1",
        "API__SECRET_KEY": secret("airflow-api"),
        "API_AUTH__JWT_SECRET": secret("airflow-jwt"),
        "LOGGING__BASE_LOG_FOLDER": str(home.airflow / "logs"),
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "WORKERS__EXECUTION_API_RETRIES": "15",
        "WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.5",
        "WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "3",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "45",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
        "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "DAG_PROCESSOR__PRINT_STATS_INTERVAL": "600",
    }
    return {"AIRFLOW_HOME": str(home.airflow), **{f"AIRFLOW__{name}": text for name, text in options.items()}}


def shipped_dags() -> Path:
    """The folder of the package `dags`, found and not imported: the library knows no scheduler."""
    spec = importlib.util.find_spec("dags")
    if spec is None or spec.origin is None:
        raise CannotStart("the package dags is not installed: run `make up`")
    return Path(spec.origin).parent


def mlflow_environment(settings: Settings, secret: Secret | None = None) -> dict[str, str]:
    """The tracking server's configuration; its database's password shows in no command line."""
    secret = secret or settings.at.secret
    return {
        "MLFLOW_BACKEND_STORE_URI": _database(settings, "mlflow", secret),
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secret("mlflow-webhook"),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _database(settings: Settings, role: str, secret: Secret) -> str:
    if not settings.embedded:
        return secret(f"{role}-database")
    password = secret(f"postgres-{role}")
    return f"postgresql+psycopg2://{role}:{password}@127.0.0.1:{settings.ports.postgres}/{role}"


def awaited(settings: Settings) -> tuple[str, ...]:
    """The database, where it is this home's own; services are patient with one elsewhere."""
    return (f"pg:{settings.ports.postgres}",) if settings.embedded else ()


def database(home: Home, port: int) -> Service:
    """PostgreSQL: told to stop by INT, which does not wait for its clients, and last of all."""
    here = postgres.cluster(home)
    return Service(
        "postgres",
        here.command(port),
        stop="INT",
        grace=30,
        priority=1,
        account=here.account,
        lock=here.data / "postmaster.pid",
    )


def declared(settings: Settings) -> tuple[Service, ...]:
    """All services of this home, places excepted: those come and go with the rollout."""
    own = (database(settings.at, settings.ports.postgres),) if settings.embedded else ()
    return (
        *own,
        _mlflow(settings),
        *_airflow(settings),
        _proxy(settings),
        _own(settings, "reconciler", "pipelines.rollout"),
        _own(settings, "judge", "pipelines.rollout.judging"),
        _own(settings, "shipper", "pipelines.predictions.shipper"),
        _own(settings, "watcher", "pipelines.watcher"),
    )


def tool(name: str) -> str:
    """A program of this environment, whatever the PATH says."""
    return str(Path(sys.executable).parent / name)


def _mlflow(settings: Settings) -> Service:
    port = settings.ports.mlflow
    hosts = ",".join(f"{host}:*" for host in ("127.0.0.1", "localhost"))
    return Service(
        "mlflow",
        (
            *(tool("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--allowed-hosts", hosts, "--artifacts-destination", str(settings.at.artifacts)),
        ),
        {**QUIET, "PYTHONUNBUFFERED": "1", **mlflow_environment(settings)},
        after=awaited(settings),
        priority=100,
    )


def _airflow(settings: Settings) -> tuple[Service, ...]:
    """The api-server first; with the scheduler before it due runs fail. Logs are read from disk: the
    log servers of scheduler and triggerer would listen on every address."""
    variables = {**platform_environment(settings), **airflow_environment(settings)}
    database, api = awaited(settings), f"http:{settings.ports.airflow}/api/v2/version"
    parts = (
        ("api-server", (), database),
        ("scheduler", ("--skip-serve-logs",), (*database, api)),
        ("dag-processor", (), database),
        ("triggerer", ("--skip-serve-logs",), database),
    )
    return tuple(
        Service(f"airflow-{part}", (tool("airflow"), part, *flags), variables, after, priority=200)
        for part, flags, after in parts
    )


def _proxy(settings: Settings) -> Service:
    return Service("proxy", tuple(haproxy.command(settings.at.proxy)), priority=300)


def _own(settings: Settings, name: str, module: str) -> Service:
    """A process of the platform itself; it has its own patience with services that are away."""
    return Service(name, (sys.executable, "-m", module), platform_environment(settings), priority=400)
