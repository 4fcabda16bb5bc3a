"""One flow in a process of its own, to be killed: real tables, suites, training, MLflow's store and PostgreSQL.

The process is forked from a server that has imported everything and used nothing, so that a kill costs no imports.
Only the bento and its answers are stood in for; the whole suite builds and asks real ones.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import polars as pl
import psycopg

from pipelines import catalog, fakes, flows, lake
from pipelines.adapters.delta import DeltaTables
from pipelines.adapters.expectations import ExpectationsValidator
from pipelines.adapters.mlflow_store import KEY, MlflowStore
from pipelines.adapters.postgres_book import PostgresBook, PostgresClaims, PostgresLocks
from pipelines.adapters.postgres_labels import PostgresLabelBook
from pipelines.adapters.readers import Readers
from pipelines.adapters.sources import FolderSource
from pipelines.adapters.xgboost_parts import XGBoostModeller
from pipelines.machine import keeper
from pipelines.records import Chosen, Wish
from pipelines.runner import here
from pipelines.spec import UseCase
from pipelines.steps.quarantine import replay
from pipelines.tools import Tools
from tests.builders import LOCK, replace
from tests.chaos.drops import Drops, seen_rows
from tests.chaos.laws import Releases, Rows
from tests.chaos.live import LOOK, together

SECONDS = 240.0


class Where(NamedTuple):
    """A home for one flow; what is sent to its process."""

    folder: Path
    database: str
    mlflow: str


class Alone:
    """One use case with everything that outlives a process."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self.use_case = few_trees(catalog.load("calories"))
        self.folder = where.folder / "drop"
        self.folder.mkdir(exist_ok=True)
        self.drops = Drops(self.folder, self.use_case)
        self.book = PostgresBook(where.database)

    @cached_property
    def store(self) -> MlflowStore:
        """Runs and versions, straight from the database."""
        return MlflowStore(self.where.mlflow, self.where.folder / "models")

    @cached_property
    def tools(self) -> Tools:
        """Real ones; a bento is the release itself."""
        at, modeller = self.where.folder, XGBoostModeller(threads=1)
        return Tools(
            found=catalog.locate(self.use_case.name),
            lock=LOCK,
            tables_at=str(at / "tables"),
            landing=at / "landing",
            snapshots=at / "snapshots",
            docs=at / "docs",
            source=FolderSource(self.folder),
            reader=Readers(),
            tables=DeltaTables(),
            validator=ExpectationsValidator(),
            modeller=modeller,
            tracker=self.store,
            registry=self.store,
            evidence=self.book,
            claims=PostgresClaims(self.where.database),
            labels=PostgresLabelBook(self.where.database),
            scorer=fakes.HereScorer(self.use_case, modeller),
            builder=fakes.HereBuilder(),
            locks=PostgresLocks(self.where.database, SECONDS),
        )

    def at(self, table: int = 0) -> lake.TableAt:
        """A table in its place."""
        return lake.TableAt(self.tools.tables_at, self.use_case.tables[table])

    def rows(self) -> list[Rows]:
        """For the laws."""
        return seen_rows(self.tools.tables_at, self.use_case, self.drops)

    def releases(self) -> Releases:
        """For the laws."""
        every = self.book.candidates(self.use_case.name)
        versions = self.store.client.search_model_versions(f"name = '{self.use_case.name}'")
        may_serve = frozenset(str(one.version) for one in every if one.may_serve)
        runs = [(status, key) for _, status, key in self.runs()]
        return Releases(
            [key for status, key in runs if status == "FINISHED"],
            [key for status, key in runs if status == "RUNNING"],
            [one.training_key for one in every],
            [str(one.run_id) for one in versions],
            may_serve,
        )

    def runs(self) -> list[tuple[str, str, str]]:
        """Id, state and training key of each run, read as they lie there."""
        return self.asked(
            "select r.run_uuid, r.status, t.value from runs r join tags t using (run_uuid) where t.key = %s", KEY
        )

    def asked(self, query: str, *given: object) -> list[Any]:
        """Of MLflow's database, over a kept connection: middles are short."""
        return self._mlflow.execute(query, given).fetchall()  # type: ignore[call-overload]

    @cached_property
    def _mlflow(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.where.mlflow.replace("+psycopg2", ""), autocommit=True)

    def close(self) -> None:
        """Let go of what was opened to look."""
        self._mlflow.close()

    # --- the process -----------------------------------------------------------------------------------

    def start(self, flow: str, stop_after: str = "") -> BaseProcess:
        """Run it; after that step the process stops itself, so that it is killed exactly there."""
        process = _context().Process(target=_work, args=(self.where, flow, stop_after))
        process.start()
        return process

    def run(self, flow: str) -> None:
        """To its end."""
        process = self.start(flow)
        process.join(SECONDS)
        assert process.exitcode == 0, f"{flow} ended with {process.exitcode}"


def _context() -> Any:
    """A server of forks that has this module, and so every library, imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def few_trees(use_case: UseCase) -> UseCase:
    """A training of a second."""
    (part,) = use_case.parts
    quick = part.model_copy(update={"parameters": {**part.parameters, "n_estimators": 30, "learning_rate": 0.3}})
    gate = use_case.gate.model_copy(update={"at_most": 50.0, "minimum_rows": 50})
    return use_case.model_copy(update={"parts": (quick,), "gate": gate})


def _work(where: Where, flow: str, stop_after: str) -> None:
    """In the process that is killed."""
    os.chdir(where.folder)  # MLflow's artifacts lie below
    mlflow.set_tracking_uri(where.mlflow)  # no server between: its store is in this process
    world = Alone(where)
    FLOWS[flow](world, stopping(world, stop_after))


class Stopping:
    """A tool that stops the whole process when one of its calls has come back: nobody knows of it yet."""

    def __init__(self, tool: object, call: str) -> None:
        self._tool, self._call = tool, call

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._tool, name)

        def calling(*given: Any, **named: Any) -> Any:
            result = real(*given, **named)
            if name == self._call:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return calling


def stopping(world: Alone, stop_after: str) -> flows.Runner:
    """Runs steps here; the process stops itself after that step, or after that call of a tool (`tracker.log`)."""
    tool, _, call = stop_after.rpartition(".")
    struck = {tool: Stopping(getattr(world.tools, tool), call)} if tool else {}
    do = here(replace(world.tools, **struck), world.use_case)

    def stopping_do(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            result = do(step)(*given)
            if step.__name__ == stop_after:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return run

    return stopping_do


def _ingest(world: Alone, do: flows.Runner) -> None:
    for table in world.use_case.tables:
        flows.ingestion(do, table.name, datetime.now(UTC))


def _retrain(world: Alone, do: flows.Runner) -> None:
    flows.retraining(do, Wish(), datetime.now(UTC))


def _replay(world: Alone, do: flows.Runner) -> None:
    fixed = pl.read_csv(world.where.folder / "corrected.csv", infer_schema=False)
    do(replay)("exercise", Chosen(), fixed, datetime.now(UTC))


FLOWS: dict[str, Callable[[Alone, flows.Runner], None]] = {
    "ingest": _ingest,
    "retrain": _retrain,
    "replay": _replay,
}


# --- the kill -----------------------------------------------------------------------------------------------


def kill_stopped(process: BaseProcess) -> None:
    """SIGKILL when the process has stopped itself."""
    assert process.pid is not None
    deadline = time.monotonic() + SECONDS
    while _state(process.pid) != "T":
        assert process.is_alive(), f"it ended with {process.exitcode} before its step was reached"
        assert time.monotonic() < deadline, "it never reached its step"
        time.sleep(0.005)
    _kill(process)


def kill_in(process: BaseProcess, middle: Callable[[], bool]) -> bool:
    """SIGKILL while the middle is to be seen and the process is stopped; False: the process was quicker.

    Both share one processor, so that the process does not get far between two looks however busy the machine is.
    """
    assert process.pid is not None
    with together([process.pid]):
        return _kill_in(process, middle)


def _kill_in(process: BaseProcess, middle: Callable[[], bool]) -> bool:
    assert process.pid is not None
    while process.is_alive():
        if not middle():
            time.sleep(LOOK)
            continue
        os.kill(process.pid, signal.SIGSTOP)
        if middle() and process.is_alive():
            _kill(process)
            return True
        os.kill(process.pid, signal.SIGCONT)
    return False


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL


def _state(pid: int) -> str:
    """As /proc tells it; empty when it is gone."""
    try:
        return (keeper.PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
