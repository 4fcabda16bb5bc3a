"""`python -m pipelines.rollout.judging`: replay the shadow's share, count both arms, and say what they show.

It changes nothing that serves: it writes sums and verdicts, which the reconciler reads. Each look is one
transaction, so it may die at any time; a request that was asked again twice counts once in the log.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pipelines import catalog, wiring
from pipelines.adapters.postgres_book import PostgresBook, kept
from pipelines.adapters.postgres_rollouts import PostgresRollouts
from pipelines.errors import ServiceAway, TouchlineError
from pipelines.predictions import arms, replay
from pipelines.predictions.arms import Compared
from pipelines.predictions.replay import Replayer
from pipelines.predictions.tables import Connection
from pipelines.rollout import counting
from pipelines.rollout.counting import Counted
from pipelines.rollout.evidence import Moments
from pipelines.rollout.judge import judge
from pipelines.rollout.pictures import Pictures
from pipelines.rollout.proxy import Proxy
from pipelines.rollout.serving import Serving
from pipelines.rollout.stages import Rollout
from pipelines.settings import Settings
from pipelines.spec import UseCase

log = logging.getLogger("pipelines.rollout.judging")
PAUSE_SECONDS = 1.0
SPARSE = 20
"""Losses are summed up anew when so many times as long has passed as that took."""
KEPT = 0.02
"""A verdict is kept for the picture when the rollout has grown older by this share, or when it says otherwise."""


class Judging:
    """Looks at every rollout under way, round after round."""

    def __init__(
        self,
        settings: Settings,
        book: PostgresBook,
        rollouts: PostgresRollouts,
        proxy: Proxy,
        connection: Connection,
    ) -> None:
        self.settings, self.book, self.rollouts = settings, book, rollouts
        self.proxy, self.connection = proxy, connection
        self.replayers: dict[tuple[str, int], Replayer] = {}
        self.losses_due: dict[str, float] = {}

    def round(self, now: datetime) -> None:
        """Look once at each."""
        known = catalog.find(self.settings.use_cases)
        for serving in self.book.all_serving():
            if serving.rollout is not None and serving.rollout.judged and serving.use_case in known:
                self._one(serving, serving.rollout, now)

    def _one(self, serving: Serving, rollout: Rollout, now: datetime) -> None:
        use_case = catalog.current(serving.use_case, self.settings.use_cases)
        of = Compared(serving.use_case, rollout.version, rollout.against, rollout.began, rollout.since)
        newest = arms.newest(self.connection)
        counted = self._begun(use_case, of)
        counted = self._replayed(use_case, serving, counted, newest, now)
        counted = self._counted(use_case, serving, counted, of, newest)
        counted = self._with_losses(use_case, rollout, counted, of, now)
        evidence = counting.evidence_of(rollout, counted, now)
        verdict = judge(rollout.plan, evidence, rollout.stage, rollout.least)  # type: ignore[arg-type]
        self.rollouts.look(of, counted, verdict, rollout.label, now, KEPT)

    def _begun(self, use_case: UseCase, of: Compared) -> Counted:
        """What was counted so far; what is counted by stage, of this stage only."""
        kept = self.rollouts.counted(of.use_case, of.began)
        if kept is None:
            first = arms.before(self.connection, of.began)
            empty = {one.output: Moments() for one in use_case.calibrated}
            return Counted(seen=first, replayed=first, calibration=empty)
        since, counted = kept
        return counted if since == of.since else counting.in_next_stage(counted)

    # --- shadow ----------------------------------------------------------------------------------------

    def _replayed(
        self, use_case: UseCase, serving: Serving, counted: Counted, newest: int, now: datetime
    ) -> Counted:
        """Ask the other version what this one answered; what it does not answer is counted and left."""
        target = _target(serving)
        if target is None or serving.version is None or not use_case.rollout.shadow.share:
            return counted.model_copy(update={"replayed": newest})
        chosen = replay.choose(self.connection, use_case, serving.version, counted.replayed, newest, now)
        answered = self._replayer(use_case, target).ask(chosen.requests)
        return counted.model_copy(
            update={
                "replayed": chosen.until,
                "asked_again": counted.asked_again + len(chosen.requests),
                "unanswered": counted.unanswered + len(chosen.requests) - answered,
            }
        )

    def _replayer(self, use_case: UseCase, port: int) -> Replayer:
        key = (use_case.name, port)
        if key not in self.replayers:
            for old in [each for each in self.replayers if each[0] == use_case.name]:
                self.replayers.pop(old).close()
            self.replayers[key] = Replayer(port, use_case.serving.time_limit)
        return self.replayers[key]

    # --- both arms -------------------------------------------------------------------------------------

    def _counted(
        self, use_case: UseCase, serving: Serving, counted: Counted, of: Compared, newest: int
    ) -> Counted:
        counted = counting.with_latencies(counted, arms.latencies(self.connection, of, counted.seen, newest))
        counted = counting.with_answers(counted, use_case, arms.answers(self.connection, of, counted.seen, newest))
        try:
            counted = counting.with_rates(counted, serving, self.proxy.counters())
        except ServiceAway as away:
            log.warning("its counters are not known now: %s", away)
        return counted.model_copy(update={"seen": newest})

    def _with_losses(
        self, use_case: UseCase, rollout: Rollout, counted: Counted, of: Compared, now: datetime
    ) -> Counted:
        """Summed up anew from the outcomes in force, the more seldom the longer that takes."""
        began = time.monotonic()
        if began < self.losses_due.get(use_case.name, 0.0):
            return counted
        if rollout.plan.shadow.share:
            pairs = arms.paired(self.connection, of)
            counted = counting.with_paired(counted, pairs, rollout.plan.loss_worse_by_at_most)
        elif rollout.split_since is not None:
            split = arms.split(self.connection, of, rollout.split_since, rollout.split_until or now)
            counted = counting.with_split(counted, rollout, split)
        if rollout.plan.miscalibrated_by_at_most is not None:
            told = {one.output: one for one in use_case.calibrated}
            counted = counting.with_calibration(counted, arms.residuals(self.connection, of, told))
        ended = time.monotonic()
        self.losses_due[use_case.name] = ended + SPARSE * (ended - began)
        return counted


def _target(serving: Serving) -> int | None:
    """The port of the place that is asked again: the challenger's, in the watch the previous champion's."""
    role = "previous" if serving.rollout is not None and serving.rollout.stage == "watch" else "canary"
    return next((place.port for place in serving.of(role)), None)


def main() -> None:
    """Judge until the end; a service that is away is waited for."""
    settings = wiring.settings()
    pictures = Pictures(settings)
    while True:
        try:
            _work(settings, pictures.round)
        except TouchlineError as away:
            log.warning("waiting: %s", away)
            time.sleep(PAUSE_SECONDS)


def _work(settings: Settings, draw: Callable[[], None]) -> None:
    rollouts = PostgresRollouts(settings.database)
    with kept(settings.database) as connection:
        book, proxy = PostgresBook(settings.database), wiring.proxy(settings)
        judging = Judging(settings, book, rollouts, proxy, connection)
        while True:
            judging.round(datetime.now(UTC))
            draw()
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
