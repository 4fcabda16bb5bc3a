"""The rollout of a challenger, as data: prepared → shadow → canary → full → watch, and how it ends."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pipelines.rollout.evidence import Least, Verdict
from pipelines.spec import Frozen, RolloutPlan

StageName = Literal["prepared", "shadow", "canary", "full", "watch"]
Outcome = Literal["done", "rolled back"]
PER_PERCENT = 100
"""Basis points: the proxy's unit."""


class Rollout(Frozen):
    """One challenger under way; `began` names it among the rollouts of its use case."""

    version: str
    against: str
    """The champion when it began; after the switch the version that is kept warm."""
    plan: RolloutPlan
    """As declared when it began, or when that last changed."""
    began: datetime
    stage: StageName = "prepared"
    step: int = 0
    """Which of the plan's stages, in canary."""
    since: datetime
    """When the present stage and step began: what is judged by the stage is counted from here."""
    exposed_since: datetime | None = None
    """When clients were first sent to it: from here a horizon passes before the weight may exceed the cap."""
    split_since: datetime | None = None
    """When the last canary step began: from here both arms answered side by side in even shares."""
    split_until: datetime | None = None
    """When one of them answered all again."""
    kept_percent: float = 0.0
    """Of all requests, while its further places come (full)."""
    held: str | None = None
    """Why it goes on only when a person says so."""
    asks: str | None = None
    """What a person must agree to before it goes on."""
    approved: bool = False
    """That a person has agreed to the next step."""

    @property
    def percent(self) -> float:
        """Of all requests, that are sent to its place."""
        if self.stage == "canary":
            return self.plan.stages[self.step].weight
        if self.stage == "full":
            return self.kept_percent
        return 100.0 if self.stage == "watch" else 0.0

    @property
    def label(self) -> str:
        """For people: `canary 5 %`."""
        return f"canary {self.percent:g} %" if self.stage == "canary" else self.stage

    @property
    def least(self) -> Least:
        """What the stage waits for."""
        if self.stage == "shadow":
            return Least(fast=self.plan.shadow.pairs, slow=self.plan.shadow.labels)
        if self.stage == "canary":
            step = self.plan.stages[self.step]
            return Least(fast=step.requests, slow=step.labels)
        return Least(fast=0, slow=0)

    @property
    def least_time(self) -> timedelta:
        """How long the stage lasts at least; of the watch beside the horizon."""
        if self.stage == "shadow":
            return self.plan.shadow.time
        return self.plan.stages[self.step].time if self.stage == "canary" else self.plan.watch

    @property
    def judged(self) -> bool:
        """Whether verdicts decide in this stage."""
        return self.stage in {"shadow", "canary", "watch"}

    def at(self, stage: StageName, step: int, now: datetime) -> "Rollout":
        """In its next stage."""
        told: dict[str, object] = {"stage": stage, "step": step, "since": now, "asks": None, "approved": False}
        if stage == "canary":
            told |= {"split_since": now, "exposed_since": self.exposed_since or now}
        if stage == "full":
            told |= {"kept_percent": self.percent}
        if stage == "watch":
            told |= {"split_until": now}
        return self.model_copy(update=told)

    def following(self) -> tuple[StageName, int]:
        """What comes after this stage."""
        if self.stage == "prepared" and self.plan.shadow.share:
            return "shadow", 0
        after = self.step + 1 if self.stage == "canary" else 0
        if self.stage in {"prepared", "shadow", "canary"} and after < len(self.plan.stages):
            return "canary", after
        return ("full", 0) if self.stage != "full" else ("watch", 0)

    def under(self, plan: RolloutPlan, now: datetime) -> "Rollout":
        """Under a plan that changed meanwhile: at most at the weight it has; what the stage counts begins anew."""
        kept = {"plan": plan, "asks": None, "approved": False}
        if self.stage not in {"shadow", "canary"}:
            return self.model_copy(update=kept)
        changed = self.model_copy(update={**kept, "since": now})
        if self.stage == "shadow" and not plan.shadow.share:
            return changed.model_copy(update={"stage": "prepared"})
        if self.stage == "shadow":
            return changed
        within = [step for step, stage in enumerate(plan.stages) if stage.weight <= self.percent]
        if within:
            return changed.model_copy(update={"step": within[-1], "split_since": now})
        return changed.model_copy(update={"stage": "shadow" if plan.shadow.share else "prepared", "step": 0})


class Order(Frozen):
    """What a person, or a flow for one, asks the reconciler to do."""

    id: int = 0
    at: datetime
    use_case: str
    kind: Literal["start", "hold", "resume", "promote", "abort", "rollback", "approve"]
    version: str | None = None
    """To start; otherwise the version that was meant: an order for one that has gone since is refused."""
    stage: str | None = None
    """The stage that a person was asked about: an answer for which nobody waits any more is refused."""
    who: str
    why: str
    settled: str | None = None
    """What became of it."""


class Entry(Frozen):
    """One change of a rollout: when, who, why, and by which numbers."""

    at: datetime
    use_case: str
    began: datetime
    version: str
    stage_before: str | None
    """None: it began."""
    stage_after: str | None
    """None: it ended."""
    percent: float
    """Of all requests, after it."""
    kind: str
    who: str
    why: str
    evidence: Verdict | None = None


class Ended(NamedTuple):
    """How a rollout ended."""

    rollout: Rollout
    outcome: Outcome


class Looked(NamedTuple):
    """A verdict, and what it is about."""

    began: datetime
    since: datetime
    """Of the stage: a verdict on an earlier one decides nothing."""
    verdict: Verdict


def labels(plan: RolloutPlan) -> tuple[str, ...]:
    """The stages of a plan, in their order, as the history names them."""
    shadow = ("shadow",) if plan.shadow.share else ()
    return (*shadow, *(f"canary {stage.weight:g} %" for stage in plan.stages), "full", "watch")


def over(history: Sequence[Entry], label: str, order: Sequence[str]) -> Entry | None:
    """The change by which a stage was left, or passed over; None while it lasts or is still to come."""
    if history and history[-1].stage_after is None:
        return history[-1]
    later = set(order[order.index(label) + 1 :])
    return next((each for each in history if each.stage_after in later), None)


def asked(history: Sequence[Entry], label: str) -> bool:
    """Whether a person is waited for before that stage."""
    return bool(history) and history[-1].kind == "held" and approval_of(label) in history[-1].why


def approval_of(label: str) -> str:
    """What is asked of a person before that stage."""
    return f"an approval of {label}"
