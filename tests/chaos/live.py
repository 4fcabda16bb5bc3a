"""The running stack as the suite sees it: what runs, what serves, what the books say; and who may be struck."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines import flows, lake, runner, wiring
from pipelines.adapters.airflow_rest import AirflowRest, of_home
from pipelines.adapters.delta import DeltaTables
from pipelines.adapters.mlflow_store import KEY
from pipelines.adapters.postgres_book import PostgresBook, connected
from pipelines.errors import ServiceAway
from pipelines.machine import keeper
from pipelines.machine.keeper import Seen
from pipelines.machine.supervisor import Process, Supervisor
from pipelines.predictions import quality
from pipelines.serving.place import is_ready
from pipelines.settings import Settings
from pipelines.spec import UseCase
from pipelines.tools import Evidence, Tools
from tests.chaos.drops import Drops, seen_rows
from tests.chaos.laws import Log, Releases, Requests, Rows, Wish
from tests.e2e.clients import Asking
from tests.e2e.conftest import Stack

NAME = "calories"
PATIENCE = 240.0
"""How long anything may take to come back before its law counts as broken."""
POLL = 0.2
LOOK = 0.0002
"""Seconds between two looks for a middle that is short: asleep, so that who is watched has the processor."""


class Live:
    """One stack under load. What is asked of it while it is struck may raise ServiceAway."""

    def __init__(
        self, stack: Stack, client: Asking, drops: Drops, no_disk: str = "the home is on no disk of its own"
    ) -> None:
        self.no_disk = no_disk
        """Why the home's disk cannot be filled; empty: it can."""
        self.stack, self.client, self.drops = stack, client, drops
        self.settings: Settings = stack.settings
        self.use_case: UseCase = drops.use_case
        self.supervisor = Supervisor(self.settings.at)
        self.rest: AirflowRest = of_home(self.settings)
        self.book = PostgresBook(self.settings.database)
        self.by_hand: set[str] = set()
        """Versions that no training registered."""
        self.seen_failures = 0
        self.struck = time.clock_gettime(time.CLOCK_BOOTTIME)
        """When the last fault struck, of the clock that processes are dated by."""
        self.due: tuple[list[str], dict[str, float]] = ([], {})
        """Answers and labels that must be in the log by now."""
        self.commands: list[Any] = []
        """Commands under way."""
        self.next_drop, self.dropped = 1, ""

    @cached_property
    def tools(self) -> Tools:
        """The platform's own, in this process."""
        return wiring.tools(self.settings, NAME)

    @cached_property
    def mlflow(self) -> MlflowClient:
        """The tracking server's own client, for questions that the platform does not ask."""
        return MlflowClient(self.settings.mlflow)

    # --- new rows --------------------------------------------------------------------------------------

    def drop(self) -> None:
        """New files."""
        self.dropped = self.drops.write(self.next_drop)
        self.next_drop += 1

    def ingest_here(self) -> None:
        """Every table, in this process."""
        do = runner.here(self.tools, self.use_case)
        for table in self.use_case.tables:
            flows.ingestion(do, table.name, self.now())

    def corrected(self) -> Path:
        """A file of corrections of the broken rows of the newest drop, as a person would write it."""
        self.drop()
        self.ingest_here()
        at = lake.TableAt(str(self.settings.at.tables / NAME), self.use_case.tables[0])
        waiting = lake.waiting(DeltaTables(), at).filter(pl.col("file") == self.dropped)
        return self.drops.correct(at.table, waiting, self.stack.home / "corrected.csv")

    @staticmethod
    def now() -> datetime:
        """For whoever is given a time."""
        return datetime.now(UTC)

    # --- processes -------------------------------------------------------------------------------------

    def services(self) -> list[Process]:
        """Every service; ServiceAway where supervisord is."""
        return self.supervisor.status()

    def keeper_of(self, name: str) -> Seen:
        """The keeper before that service."""
        found = next((keeper.seen(one.pid) for one in self.services() if one.name == name and one.pid), None)
        if found is None:
            raise ServiceAway(f"{name} has no keeper at the moment")
        return found

    def tree(self, name: str) -> list[Seen]:
        """The service and all below it, its own process first; ServiceAway while only leftovers are there."""
        pid = self.keeper_of(name).pid
        below = keeper.descendants(pid)
        first = own(pid, below)
        if first is None:
            raise ServiceAway(f"{name} does not run at the moment")
        return [first, *(one for one in below if one != first)]

    def workers(self) -> list[Seen]:
        """Airflow's executor processes that are at work on a task."""
        scheduler, *below = self.tree("airflow-scheduler")
        children = [one for one in below if one.parent == scheduler.pid]
        return [one for one in children if any(each.parent == one.pid for each in below)]

    def tasks(self) -> list[Seen]:
        """The processes in which Airflow's tasks run."""
        busy = {one.pid for one in self.workers()}
        return [one for one in self.tree("airflow-scheduler") if one.parent in busy]

    def everything(self) -> list[Seen]:
        """supervisord, every keeper, every service and all below them."""
        pid = int(self.supervisor._call("getPID"))
        top = keeper.seen(pid)
        if top is None:
            raise ServiceAway("supervisord does not run")
        return [top, *keeper.descendants(pid)]

    # --- books -----------------------------------------------------------------------------------------

    def rows(self) -> list[Rows]:
        """Each table."""
        return seen_rows(str(self.settings.at.tables / NAME), self.use_case, self.drops)

    def releases(self) -> Releases:
        """Runs, candidates and versions of today's registry."""
        runs = self._runs()
        every = self.book.candidates(NAME)
        versions = [one for one in self.versions() if str(one.version) not in self.by_hand]
        return Releases(
            [run.data.tags[KEY] for run in runs if run.info.status == "FINISHED"],
            [run.data.tags[KEY] for run in runs if run.info.status == "RUNNING"],
            [one.training_key for one in every],
            [str(one.run_id) for one in versions],
            frozenset(str(one.version) for one in every if one.may_serve),
            self.book.serving(NAME).version,
        )

    def _runs(self) -> Sequence[Any]:
        with away():
            experiment = self.mlflow.get_experiment_by_name(NAME)
            found = [] if experiment is None else self.mlflow.search_runs([experiment.experiment_id])
            return [run for run in found if KEY in run.data.tags]

    def open_runs(self) -> int:
        """Trainings that are being written down."""
        return sum(run.info.status == "RUNNING" for run in self._runs())

    def versions(self) -> Sequence[Any]:
        """Every registered version."""
        with away():
            return list(self.mlflow.search_model_versions(f"name = '{NAME}'"))

    def candidates(self) -> list[Evidence]:
        """Those that may serve, oldest first."""
        return [one for one in self.book.versions(NAME) if one.may_serve]

    def log(self) -> Log:
        """Everything the clients know, and what the platform says of it."""
        answered, accepted = self.due
        with connected(self.settings.database) as connection:
            connection.isolation_level = (
                psycopg.IsolationLevel.REPEATABLE_READ
            )  # one moment for all that is compared
            counted = quality.counts(connection, self.use_case, datetime.now(UTC))
            rows = _rows(connection)
            recorded = dict(connection.execute(_RECORDED).fetchall())
            outcomes: dict[str, list[float]] = {}
            for name, actual in connection.execute(_OUTCOMES, (list(accepted),)):
                outcomes.setdefault(name, []).append(actual)
        told = {
            one.model_version: (one.recorded, one.labelled, one.pending, one.expired) for one in counted.versions
        }
        return Log(answered, accepted, recorded, outcomes, rows, told)

    def wish(self) -> Wish:
        """What should be, beside what is."""
        running = {one.name: one for one in self.services()}
        serving = self.book.serving(NAME)
        asked = [one.version for one in self.candidates() if one.promotion_asked_at and not one.promotion_settled]
        champion = self.registry_alias()
        return Wish(
            [*self._away(running.values()), *self._unwell()],
            champion,
            serving.version,
            asked[-1] if asked else None,
            [(place.version, place.role, is_ready(place.port)) for place in serving.places],
            self.settings.replicas,
            serving.rollout and (serving.rollout.stage, serving.rollout.version, serving.rollout.against),
            self.registry_alias("challenger"),
        )

    def registry_alias(self, name: str = "champion") -> str | None:
        """Where an alias stands."""
        return self.tools.registry.aliases(NAME).get(name)

    def _away(self, running: Iterable[Process]) -> Iterator[str]:
        for one in running:
            if one.state != "RUNNING" or own(one.pid, keeper.descendants(one.pid)) is None:
                yield one.name

    def _unwell(self) -> list[str]:
        ports = self.settings.ports
        asked = {
            "postgres": f"pg:{ports.postgres}",
            "mlflow": f"http:{ports.mlflow}/health",
            "proxy": f"http:{ports.proxy}/{NAME}/readyz",
        }
        return [*self._airflow(), *(name for name, need in asked.items() if not keeper.answers(need))]

    def _airflow(self) -> Iterator[str]:
        """Parts that say that they are unwell; those that began after the strike and are silent yet."""
        told = self.rest._open("GET", "/api/v2/monitor/health", None, {})
        struck = datetime.now(UTC).timestamp() - (time.clock_gettime(time.CLOCK_BOOTTIME) - self.struck)
        for name in ("scheduler", "dag_processor", "triggerer"):
            beat = told[name][f"latest_{name}_heartbeat"]
            begun = self.tree(f"airflow-{name.replace('_', '-')}")[0].started / os.sysconf("SC_CLK_TCK")
            silent = begun > self.struck and datetime.fromisoformat(beat).timestamp() < struck
            if told[name]["status"] != "healthy" or silent:
                yield name

    def note_due(self) -> None:
        """What clients know by now must be in the log soon."""
        self.due = list(self.client.ids), dict(self.client.labelled)

    def requests(self, outage: bool) -> Requests:
        """What failed since the last cell."""
        return Requests(self.client.failed[self.seen_failures :], outage)

    def outage_seconds(self) -> float:
        """Between the first and the last failed request since the last cell."""
        times = [each.at for each in self.client.failures[self.seen_failures :]]
        return max(times) - min(times) if times else 0.0


_RECORDED = """
select prediction_id, count(*) from predictions where not superseded and not shadow group by prediction_id
"""
_OUTCOMES = """
select p.prediction_id, o.actual from outcomes o
join predictions p on p.requested_at = o.requested_at and p.seq = o.prediction_seq
where p.prediction_id = any(%s) and not p.superseded and not p.shadow
"""
_ROWS = """
select p.model_version, count(*), count(o.prediction_seq)
from predictions p left join outcomes o on o.requested_at = p.requested_at and o.prediction_seq = p.seq
where p.use_case = %s and not p.superseded and not p.shadow
and p.seq <= (select predictions_seq from label_clock where use_case = %s)
group by p.model_version
"""


def _rows(connection: psycopg.Connection) -> dict[str, tuple[int, int]]:
    found = connection.execute(_ROWS, (NAME, NAME)).fetchall()
    return {version: (recorded, labelled) for version, recorded, labelled in found}


@contextmanager
def away() -> Generator[None, None, None]:
    """MLflow that does not answer is away."""
    try:
        yield
    except MlflowException as error:
        raise ServiceAway(str(error)[:200]) from error


def own(keeper_pid: int, below: Iterable[Seen]) -> Seen | None:
    """The service's own process: what its keeper started leads a session; orphans that it adopted do not.

    Without this a service would count as back while its keeper still ends what the killed one left.
    """
    return next((one for one in below if one.parent == keeper_pid and one.pid == one.session), None)


# --- signals ------------------------------------------------------------------------------------------------


def kill(processes: Iterable[Seen]) -> None:
    """SIGKILL to each that is still the process it was; back when all are gone."""
    struck = list(processes)
    if not struck:
        raise ServiceAway("there is nobody to kill")
    keeper.tell(struck, signal.SIGKILL)
    until(lambda: not any(alive(one) for one in struck), "the killed to be gone")


def alive(one: Seen) -> bool:
    """Whether it is still that process."""
    again = keeper.seen(one.pid)
    return again is not None and again.started == one.started


@contextmanager
def frozen(processes: Sequence[Seen]) -> Generator[None, None, None]:
    """Stopped while the block runs, then on their way again, those that are left."""
    keeper.tell(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        keeper.tell(processes, signal.SIGCONT)


@contextmanager
def together(pids: Iterable[int]) -> Generator[None, None, None]:
    """Those processes and this thread on one processor while the block runs.

    Then they do not get far between two looks, however busy the machine is: a middle is not missed.
    """
    mine = os.sched_getaffinity(0)
    for pid in pids:
        _confine(pid, {min(mine)})
    os.sched_setaffinity(0, {min(mine)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
        for pid in pids:
            _confine(pid, mine)


def _confine(pid: int, processors: set[int]) -> None:
    """Each thread that there is; later ones follow their parent."""
    with contextlib.suppress(OSError):
        for thread in (keeper.PROC / str(pid) / "task").iterdir():
            os.sched_setaffinity(int(thread.name), processors)


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll; TimeoutError names what did not come. A service that is away is not there yet."""
    deadline = time.monotonic() + seconds
    while not patient(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(POLL)


def patient(condition: Callable[[], object]) -> object:
    """The condition; None where somebody who must be asked is away."""
    try:
        return condition()
    except (ServiceAway, psycopg.OperationalError):
        return None
