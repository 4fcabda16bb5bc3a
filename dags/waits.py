"""Waits of Airflow's for a rollout: a task waits in the triggerer, without a worker, until the history says so."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.triggers.base import BaseTrigger, TriggerEvent

EVERY_SECONDS = 3.0
BEGAN = "began"


class StageTrigger(BaseTrigger):  # type: ignore[misc]
    """Until a stage of a rollout is over; with `asking`, until a person is wanted before it, if that is sooner."""

    def __init__(self, use_case: str, began: str, stage: str, asking: bool) -> None:
        super().__init__()
        self.use_case, self.began, self.stage, self.asking = use_case, began, stage, asking

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it anew, also after its own death."""
        given = {"use_case": self.use_case, "began": self.began, "stage": self.stage, "asking": self.asking}
        return f"{StageTrigger.__module__}.{StageTrigger.__name__}", given

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every few seconds; a database that is away is waited for."""
        while (told := await asyncio.to_thread(self._told)) is None:
            await asyncio.sleep(EVERY_SECONDS)
        yield TriggerEvent(told)

    def _told(self) -> dict[str, str | None] | None:
        from pipelines import settings, wiring
        from pipelines.errors import ServiceAway
        from pipelines.rollout import stages

        home = settings.load()
        plan = wiring.use_case(home, self.use_case).rollout
        try:
            history = wiring.rollouts(home).changes(self.use_case, datetime.fromisoformat(self.began))
        except ServiceAway:
            return None
        if (left := stages.over(history, self.stage, stages.labels(plan))) is not None:
            return {"why": left.why, "ended": left.kind if left.stage_after is None else None, "asked": None}
        if self.asking and stages.asked(history, self.stage):
            return {"why": history[-1].why, "ended": None, "asked": self.stage}
        return None


class StageWait(BaseOperator):  # type: ignore[misc]
    """Done when its stage of the rollout is over, failed when the rollout was rolled back."""

    def __init__(self, *, use_case: str, stage: str, asking: bool = False, **given: Any) -> None:
        super().__init__(**given)
        self.use_case, self.stage, self.asking = use_case, stage, asking

    def execute(self, context: Any) -> None:
        """Wait without a worker."""
        began = (context["dag_run"].conf or {}).get(BEGAN)
        if began is None:
            raise AirflowFailException("a run shows one rollout, and the watcher starts it; conf lacks `began`")
        waits_for = StageTrigger(self.use_case, began, self.stage, self.asking)
        self.defer(trigger=waits_for, method_name=StageWait.told.__name__)

    def told(self, context: Any, event: dict[str, str | None]) -> str | None:
        """What happened; the task's return value, and its log."""
        self.log.info("%s", event["why"])
        if event["ended"] == "rolled back" and not self.asking:
            raise AirflowFailException(str(event["why"]))
        if self.asking and event["asked"] is None:
            raise AirflowSkipException("nobody need be asked any more")
        return event["why"]
