"""Gate: candidate against champion on the same held-out rows."""

import logging

import numpy as np

from pipelines import metrics, rows
from pipelines.errors import GateRefused
from pipelines.records import Candidate, Gated, GateVerdict
from pipelines.spec import Columns, Outputs, UseCase
from pipelines.steps.train import judged_rows
from pipelines.tools import Evidence, Tools

log = logging.getLogger(__name__)
CHAMPION = "champion"


def gate(tools: Tools, use_case: UseCase, candidate: Candidate) -> Gated:
    """Judge and record; GateRefused says by which numbers a candidate fell."""
    recorded = tools.evidence.by_key(candidate.training_key)
    champion = tools.registry.aliases(use_case.name).get(CHAMPION)
    verdict = _recorded(recorded, champion) or _judge(tools, use_case, candidate, champion)
    tools.evidence.amend(candidate.training_key, gate=verdict)
    word = "passed" if verdict.passed else "refused"
    tools.tracker.note(candidate.run_id, {"touchline.gate": word, "touchline.gate_reason": verdict.reason})
    log.info("gate %s: %s", word, verdict.reason)
    if not verdict.passed:
        raise GateRefused(f"{use_case.name}: run {candidate.run_id} does not pass the gate: {verdict.reason}")
    return Gated(candidate=candidate, verdict=verdict)


def _recorded(evidence: Evidence | None, champion: str | None) -> GateVerdict | None:
    """The verdict that stands: against today's champion, or of a candidate that was promoted since."""
    if evidence is None or evidence.gate is None:
        return None
    settled = evidence.promotion_asked_at is not None or evidence.gate.champion_version == champion
    return evidence.gate if settled else None


def _judge(tools: Tools, use_case: UseCase, candidate: Candidate, champion: str | None) -> GateVerdict:
    judged = judged_rows(tools, use_case, candidate.snapshot)
    columns = rows.columns_of(use_case, judged)
    actual = rows.targets_of(use_case, judged)[use_case.target]
    ours = tools.scorer.score(tools.tracker.folder(candidate.run_id), columns)
    theirs = _answers(tools, use_case, champion, columns)
    return judge(use_case, ours, theirs, actual, champion)


def _answers(tools: Tools, use_case: UseCase, version: str | None, columns: Columns) -> Outputs | None:
    """The champion's answers in its own code; None when there is no champion."""
    run_id = None if version is None else tools.registry.run_of(use_case.name, version)
    return None if run_id is None else tools.scorer.score(tools.tracker.folder(run_id), columns)


def judge(
    use_case: UseCase, ours: Outputs, theirs: Outputs | None, actual: np.ndarray, champion: str | None
) -> GateVerdict:
    """The verdict: the absolute floor first, then the paired interval against the champion's answers."""
    asked, metric = use_case.gate, use_case.metrics[use_case.gate.metric]
    value = metric(ours, actual)
    best = None if theirs is None else metric(theirs, actual)
    interval = None if theirs is None else _interval(use_case, ours, theirs, actual)
    passed, reason = _decide(use_case, value, interval, champion, len(actual))
    return GateVerdict(
        passed=passed, reason=reason, metric=asked.metric, candidate=_finite(value), champion=best,
        champion_version=champion, difference=interval, rows=len(actual),
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _interval(use_case: UseCase, ours: Outputs, theirs: Outputs, actual: np.ndarray) -> tuple[float, float, float]:
    asked = use_case.gate
    return metrics.paired_interval(
        use_case.metrics[asked.metric], ours, theirs, actual,
        confidence=asked.confidence, resamples=asked.resamples, seed=use_case.seed,
    )  # fmt: skip


def _decide(
    use_case: UseCase, value: float, interval: tuple[float, float, float] | None, champion: str | None, n: int
) -> tuple[bool, str]:
    asked = use_case.gate
    if n < asked.minimum_rows:
        return False, f"{n} held-out rows, {asked.minimum_rows} needed"
    floor = f"{asked.metric} {value:.4g} on {n} held-out rows, floor {asked.at_most:g}"
    if not value <= asked.at_most:
        return False, floor
    if interval is None:
        return True, f"{floor}; first version, no champion to beat"
    difference, lower, upper = interval
    told = f"against version {champion}: {difference:+.4g} [{lower:+.4g}, {upper:+.4g}]"
    return upper <= asked.worse_by_at_most, f"{floor}; {told}, margin {asked.worse_by_at_most:+g}"
