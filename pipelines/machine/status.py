"""What runs here and what it costs: `status`, `env`."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import CannotStart
from pipelines.machine import keeper, postgres, services
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

    Secrets are read from their files by the shell that evaluates the lines; none stands in them.
    """

    def secret(name: str) -> str:
        return f"\0{settings.at.secrets / name}\0"

    variables = {**services.platform_environment(settings), **services.airflow_environment(settings, secret)}
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
