"""`python -m pipelines.watcher`: tell people of runs that failed or did not come, each once."""

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

from pipelines import catalog, watch, wiring
from pipelines.adapters.airflow_rest import AirflowRest, of_home
from pipelines.errors import ServiceAway
from pipelines.rollout.stages import Entry
from pipelines.settings import Settings
from pipelines.tools import Notice, NoticeBook, Notifier

log = logging.getLogger("pipelines.watcher")
PAUSE_SECONDS = 15.0
RUNS = 20
LINES = 3
"""How much of a failed task's log stands in the notice."""


class Begun(Protocol):
    """A rollout under way."""

    @property
    def use_case(self) -> str:
        """Whose."""

    @property
    def began(self) -> datetime:
        """What names it."""


class Rollouts(Protocol):
    """What is known of rollouts."""

    def notable(self, since: datetime) -> Sequence[Entry]:
        """Changes that a person is told of."""

    def under_way(self) -> Sequence[Begun]:
        """Of every use case."""


class Watcher:
    """Looks at Airflow round after round."""

    def __init__(
        self,
        settings: Settings,
        airflow: AirflowRest,
        book: NoticeBook,
        notifier: Notifier,
        rollouts: Rollouts,
    ) -> None:
        self.settings, self.airflow, self.book, self.notifier = settings, airflow, book, notifier
        self.rollouts = rollouts
        self.since = datetime.now(UTC)
        self.away_since: datetime | None = None

    def round(self, now: datetime) -> None:
        """Look once; what could not be told is told in a later round."""
        for notice in self._found(now):
            if self.book.untold(notice.key):
                self.notifier.notify(notice)
                self.book.told(notice, now)

    def _found(self, now: datetime) -> Iterator[Notice]:
        yield from map(watch.of_rollout, self.rollouts.notable(now - watch.REMEMBERED))
        try:
            self._show_rollouts()
            found = [notice for dag, schedule in self._dags() for notice in self._of(dag, schedule, now)]
        except ServiceAway:
            self.away_since = self.away_since or now
            yield from watch.airflow_away(self.away_since, now)
        else:
            self.away_since = None
            yield from found

    def _show_rollouts(self) -> None:
        """A run of Airflow's for each rollout under way, wherever it was begun; it shows and waits."""
        for each in self.rollouts.under_way():
            dag, run = f"rollout_{each.use_case}", f"rollout__{each.began.isoformat()}"
            if not self.airflow.is_paused(dag) and run not in {known[0] for known in self.airflow.runs(dag, RUNS)}:
                self.airflow.trigger(dag, {"began": each.began.isoformat()}, run)

    def _dags(self) -> Iterator[tuple[str, str]]:
        for name in catalog.find(self.settings.use_cases):
            use_case = catalog.current(name, self.settings.use_cases)
            yield f"ingest_{name}", use_case.ingest_schedule
            yield f"retrain_{name}", use_case.retrain_schedule

    def _of(self, dag: str, schedule: str, now: datetime) -> Iterator[Notice]:
        runs = tuple(watch.Run(*each) for each in self.airflow.runs(dag, RUNS))
        watched = watch.Watched(dag, schedule, self.airflow.is_paused(dag), runs)
        for notice in watch.notices(watched, self.since, now):
            yield self._explained(dag, notice) if notice.key.startswith(f"{dag} failed ") else notice

    def _explained(self, dag: str, notice: Notice) -> Notice:
        """With the task that failed, the last lines of its log, and where to look."""
        run = notice.key.removeprefix(f"{dag} failed ")
        failed = [task for task in self.airflow.tasks(dag, run) if task.state == "failed"]
        told = [f"{task.task}: {' | '.join(self.airflow.log(dag, run, task)[-LINES:])}" for task in failed]
        link = f"{self.airflow.url}/dags/{dag}/runs/{run}"
        return notice.model_copy(update={"body": "\n".join([notice.body, *told, f"Look: {link}"])})


def main() -> None:
    """Watch until the end; the database or a notifier that is away is waited for."""
    settings = wiring.settings()
    book, notifier, rollouts = wiring.notices(settings), wiring.notifier(settings), wiring.rollouts(settings)
    watcher = Watcher(settings, of_home(settings), book, notifier, rollouts)
    while True:
        try:
            watcher.round(datetime.now(UTC))
        except ServiceAway as away:
            log.warning("%s", away)
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
