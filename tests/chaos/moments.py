"""What is under way when a fault strikes, how its middle is seen from outside, and how it comes to its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psycopg

from pipelines import catalog, lake, wiring
from pipelines.adapters.airflow_rest import DONE
from pipelines.adapters.delta import DeltaTables
from pipelines.machine import keeper
from pipelines.machine.keeper import Seen
from pipelines.rollout.stages import Order
from tests.chaos.live import LOOK, NAME, Live, frozen, patient, together, until

INGEST, RETRAIN = f"ingest_{NAME}", f"retrain_{NAME}"
WORK_SECONDS = 600.0
SHIP_LOCK = 7_400_003
"""Key of the lock that a writer of the log holds while it writes."""


class Work(NamedTuple):
    """Something under way."""

    reached: Callable[[], object]
    """Whether it is in its middle now."""
    passed: Callable[[], object]
    """Whether the middle was missed."""
    finish: Callable[[], None]
    """Back when the work is done, in spite of what happened to it; TimeoutError when it does not end."""
    holds: Callable[[], Sequence[Seen]] = tuple
    """Whom to freeze while looking, because the middle is short; nobody: it lasts long enough."""


class Moment(NamedTuple):
    """A kind of work, by its name."""

    name: str
    begin: Callable[[Live], AbstractContextManager[Work]]


class Missed(Exception):
    """The work was done before its middle was seen."""


def catch(work: Work) -> AbstractContextManager[None]:
    """Wait for the middle; what is returned keeps it while it is entered. Missed when it went by."""
    while not patient(work.reached):
        if patient(work.passed):
            raise Missed
        time.sleep(LOOK)
    held = frozen(work.holds()) if work.holds is not tuple else nullcontext()
    return held


def never() -> bool:
    """Of work without an end of its own."""
    return False


def always() -> bool:
    """Of work without a middle."""
    return True


@contextmanager
def at_rest(live: Live) -> Generator[Work, None, None]:
    """Nothing but clients."""
    yield Work(always, never, lambda: None)


# --- flows, run by Airflow ----------------------------------------------------------------------------------


class DagRun:
    """One run of a DAG, brought to its end whatever happens to it."""

    def __init__(self, live: Live, dag: str) -> None:
        self.live, self.dag = live, dag
        self.run = live.rest.trigger(dag, {"reason": "chaos"} if dag == RETRAIN else {})
        self.last = "none"

    def state(self, task: str) -> str:
        """Of that task; none before it is known."""
        found = [one.state for one in self.live.rest.tasks(self.dag, self.run) if one.task == task]
        return found[0] if found else "none"

    def ended(self) -> bool:
        """Whether it needs no more."""
        self.last = self.live.rest.state(self.dag, self.run)
        return self.last in DONE

    def finish(self) -> None:
        """Success, by Airflow's own recovery."""
        until(self.ended, f"{self.dag} to end", WORK_SECONDS)
        if self.last != "success":
            raise AssertionError(f"{self.dag} ended as {self.last}")

    def in_task(self, task: str) -> Work:
        """Its middle: that task runs, in a process that there is."""

        def running() -> bool:
            return self.state(task) == "running" and bool(self.live.tasks())

        return Work(running, partial(self._over, task), self.finish)

    def _over(self, task: str) -> bool:
        return self.state(task) in {*DONE, "skipped", "upstream_failed"}


def ingest(task: str) -> Callable[[Live], AbstractContextManager[Work]]:
    """A task of an ingest of new files."""

    @contextmanager
    def begin(live: Live) -> Generator[Work, None, None]:
        live.drop()
        yield DagRun(live, INGEST).in_task(task)

    return begin


def retrain(task: str) -> Callable[[Live], AbstractContextManager[Work]]:
    """A task of a training on new rows."""

    @contextmanager
    def begin(live: Live) -> Generator[Work, None, None]:
        live.drop()
        live.ingest_here()
        yield DagRun(live, RETRAIN).in_task(task)

    return begin


@contextmanager
def delta_commit(live: Live) -> Generator[Work, None, None]:
    """A data file lies there that no commit names yet."""
    live.drop()
    folder = Path(lake.TableAt(str(live.settings.at.tables / NAME), live.use_case.tables[0]).published)
    before, commits = files(folder), commits_of(folder)
    run = DagRun(live, INGEST)

    writers: list[Seen] = []

    def reached() -> bool:
        """Who writes is found out before: the middle is over sooner than Airflow answers."""
        if not writers and run.state("exercise.publish") == "running":
            writers.extend(live.tasks())
            near.enter_context(together([one.pid for one in writers]))
        return stopped(lambda: bool(files(folder) - before) and commits_of(folder) == commits, writers)

    with ExitStack() as near:
        yield Work(reached, lambda: commits_of(folder) > commits, run.finish, lambda: writers)


def stopped(middle: Callable[[], bool], whom: Sequence[Seen]) -> bool:
    """Looked at twice: when it was seen, and when nobody moves any more; then they stay stopped."""
    if not whom or not middle():
        return False
    keeper.tell(whom, signal.SIGSTOP)
    if middle():
        return True
    keeper.tell(whom, signal.SIGCONT)
    return False


def files(folder: Path) -> set[str]:
    """Data files, also half-made ones, whether a commit names them or not; cheap, for a middle is short."""
    return {name for name in _names(folder) if ".parquet" in name}


def commits_of(folder: Path) -> int:
    """How many commits there are."""
    return sum(name.endswith(".json") for name in _names(folder / "_delta_log"))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # ruff: ignore[os-listdir]
    except FileNotFoundError:
        return []


@contextmanager
def mlflow_write(live: Live) -> Generator[Work, None, None]:
    """A run is open in MLflow: some of it is written."""
    live.drop()
    live.ingest_here()
    run = DagRun(live, RETRAIN)
    yield Work(live.open_runs, partial(run._over, "train"), run.finish)


@contextmanager
def two_runs(live: Live) -> Generator[Work, None, None]:
    """Two runs of one DAG and one from the command line, at once, on the same new files."""
    live.drop()
    runs = [DagRun(live, INGEST), DagRun(live, INGEST)]
    command = Command(live, "ingest")

    def finish() -> None:
        for run in runs:
            run.finish()
        command.finish()

    yield Work(lambda: any(run.state("exercise.publish") == "running" for run in runs), runs[0].ended, finish)


# --- what serves --------------------------------------------------------------------------------------------


def _other_version(live: Live) -> str:
    """The newest that may serve and does not."""
    serving = live.book.serving(NAME).version
    return [str(one.version) for one in live.candidates() if one.version != serving][-1]


def _roles(live: Live) -> set[str]:
    return {place.role for place in live.book.serving(NAME).places}


def _order(live: Live, kind: str, version: str | None = None) -> str:
    """Ask the reconciler, and wait for what it says."""
    rollouts = wiring.rollouts(live.settings)
    given = {"use_case": NAME, "kind": kind, "version": version, "who": "chaos", "why": "a fault is to strike"}
    number = rollouts.order(Order(at=live.now(), **given))
    until(lambda: patient(lambda: rollouts.settled(number) is not None), f"the order {kind}")
    return str(rollouts.settled(number))


def _calm(live: Live) -> None:
    """No rollout is under way, and none waits for its turn."""

    def calm() -> bool:
        rollout = live.book.serving(NAME).rollout
        if rollout is not None:
            _order(live, "rollback")
        return rollout is None and live.wish().asked is None and _roles(live) == {"stable"}

    until(calm, "no rollout to be under way")


def rollout(stage: str) -> Callable[[Live], AbstractContextManager[Work]]:
    """The other version on its way to champion, in that stage; it goes on, or has ended by its plan."""

    @contextmanager
    def begin(live: Live) -> Generator[Work, None, None]:
        _calm(live)
        version = _other_version(live)
        _order(live, "start", version)
        if stage in {"full", "watch"}:
            _order(live, "promote", version)

        def now() -> str | None:
            found = live.book.serving(NAME).rollout
            return found and found.stage

        yield Work(lambda: now() == stage, lambda: now() is None, lambda: until(lambda: now() != "full", "places"))

    return begin


@contextmanager
def swap(live: Live) -> Generator[Work, None, None]:
    """A person moved the alias: places of another version start."""
    _calm(live)
    version = _other_version(live)
    live.tools.registry.point(NAME, "champion", version)

    def done() -> bool:
        return live.book.serving(NAME).version == version

    yield Work(lambda: "coming" in _roles(live), done, lambda: until(done, f"version {version} to serve"))


@contextmanager
def swapped(live: Live) -> Generator[Work, None, None]:
    """The other version serves already, the old one's places are leaving."""
    _calm(live)
    version = _other_version(live)
    live.tools.registry.point(NAME, "champion", version)

    def settled() -> bool:
        return live.book.serving(NAME).version == version and _roles(live) == {"stable"}

    yield Work(lambda: "leaving" in _roles(live), settled, lambda: until(settled, "the old places to leave"))


@contextmanager
def alias_move(live: Live) -> Generator[Work, None, None]:
    """A version was promoted, it serves, and the alias is still to follow."""
    _calm(live)
    version = _other_version(live)
    _order(live, "start", version)
    _order(live, "promote", version)

    def due() -> bool:
        return live.book.serving(NAME).alias_due

    def done() -> bool:
        return live.registry_alias() == version and not due()

    yield Work(due, done, lambda: until(done, f"the alias to follow to version {version}"))


# --- the log ------------------------------------------------------------------------------------------------

ANSWERS = 20_000
"""In a backlog."""


def _backlog(live: Live) -> None:
    """Enough answers at once to keep the shipper busy for a while; they are stopped until all lie there."""
    most = catalog.load(NAME).serving.batch_limit
    body = {"rows": [live.stack.row()] * most}
    with frozen(live.tree("shipper")):
        for _ in range(ANSWERS // most):
            answer = live.stack.ask(f"/{NAME}/predict/batch", body)
            live.client.ids += [one["prediction_id"] for one in answer.body["predictions"]]


def _asked(live: Live, query: str, *given: object) -> bool:
    with psycopg.connect(live.settings.database, connect_timeout=5) as connection:
        row = connection.execute(query, given).fetchone()  # type: ignore[call-overload]
        return bool(row and row[0])


_SHIPPING = "select count(*) from pg_locks where locktype = 'advisory' and objid = %s and granted"
_JOINING = """
select count(*) from pg_stat_activity
where usename = current_user and pid <> pg_backend_pid() and xact_start is not null
and query ilike any (array['%%touched%%', '%%matches%%', '%%in_force%%', '%%cells%%'])
"""


def log_work(query: str, *given: object) -> Callable[[Live], AbstractContextManager[Work]]:
    """The shipper in the middle of a transaction."""

    @contextmanager
    def begin(live: Live) -> Generator[Work, None, None]:
        _backlog(live)
        ended = time.monotonic() + 20

        def reached() -> bool:
            return stopped(lambda: _asked(live, query, *given), live.tree("shipper"))

        yield Work(reached, lambda: time.monotonic() > ended, lambda: None, partial(live.tree, "shipper"))

    return begin


# --- the quarantine -----------------------------------------------------------------------------------------


class Command:
    """A command of the platform in a process of its own, run again until it is done."""

    def __init__(self, live: Live, *words: str) -> None:
        self.live, self.words = live, words
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        log = (self.live.stack.home / "chaos-command.log").open("wb")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *self.words],
                env=self.live.stack.environment, stdout=log, stderr=log,
            )  # fmt: skip

    def seen(self) -> list[Seen]:
        """The process; none when it has ended."""
        found = keeper.seen(self.process.pid)
        return [] if found is None or self.process.poll() is not None else [found]

    def ended(self) -> bool:
        """Whether it needs no more."""
        return self.process.poll() is not None

    def finish(self) -> None:
        """Whoever wanted it runs it again after a failure that says "try again", or a kill."""
        for _ in range(5):
            if self.process.wait(WORK_SECONDS) == 0:
                return
            time.sleep(2)
            self.process = self._start()
        if self.process.wait(WORK_SECONDS):
            told = (self.live.stack.home / "chaos-command.log").read_text()
            raise AssertionError(f"{' '.join(self.words)}: {self.process.returncode}: {told[-400:]}")


@contextmanager
def replay(live: Live) -> Generator[Work, None, None]:
    """Corrected rows have left the quarantine and are not published yet."""
    file = live.corrected()
    at = lake.TableAt(str(live.settings.at.tables / NAME), live.use_case.tables[0])
    tables = DeltaTables()
    number = tables.committed(at.aside, lake.REPLAY)
    command = Command(live, "quarantine", "replay", "--table", at.table.name, "--fixed", str(file))
    live.commands = [command]

    def committed() -> bool:
        return replays(Path(at.aside)) > replays(Path(at.published))

    def reached() -> bool:
        return stopped(committed, command.seen())

    begun = replays(Path(at.published))
    assert number == begun, "an earlier replay was not finished"
    yield Work(reached, command.ended, command.finish, command.seen)


def replays(folder: Path) -> int:
    """How many replays a table bears, read from its log as it lies there."""
    found = [0]
    for commit in (folder / "_delta_log").glob("*.json"):
        for line in commit.read_text().splitlines():
            told = json.loads(line).get("txn", {})
            found.append(told["version"] if told.get("appId") == lake.REPLAY else 0)
    return max(found)


STAGES = ("prepared", "shadow", "canary", "full", "watch")
REST = Moment("at rest", at_rest)
MOMENTS = {
    each.name: each
    for each in (
        REST,
        *(Moment(f"ingest: {step}", ingest(f"exercise.{step}")) for step in ("receive", "validate", "publish")),
        Moment("ingest: hand over", ingest("exercise.hand_over")),
        Moment("Delta commit", delta_commit),
        Moment("two runs at once", two_runs),
        *(Moment(f"retrain: {step}", retrain(step)) for step in ("train", "gate", "register", "build", "check")),
        Moment("MLflow write", mlflow_write),
        *(Moment(f"rollout: {stage}", rollout(stage)) for stage in STAGES),
        Moment("swap: coming", swap),
        Moment("swap: leaving", swapped),
        Moment("alias move", alias_move),
        Moment("shipping", log_work(_SHIPPING, SHIP_LOCK)),
        Moment("label join", log_work(_JOINING)),
        Moment("quarantine replay", replay),
    )
}
