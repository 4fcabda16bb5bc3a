"""Gate: candidate against champion on the same held-out rows."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines import calibration, metrics, rows, slices
from pipelines.errors import GateRefused
from pipelines.records import (
    CalibrationVerdict,
    Candidate,
    Gated,
    GateVerdict,
    Interval,
    SliceVerdict,
    Wish,
)
from pipelines.spec import Columns, Outputs, UseCase
from pipelines.steps.train import judged_rows
from pipelines.tools import Evidence, Tools

log = logging.getLogger(__name__)
CHAMPION, CHALLENGER = "champion", "challenger"
Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


def gate(tools: Tools, use_case: UseCase, candidate: Candidate, wish: Wish) -> Gated:
    """Judge and record; GateRefused says by which numbers a candidate fell."""
    recorded = None if wish.force else tools.evidence.by_key(candidate.training_key)
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
    return judge(Judged(use_case, columns, actual, ours, theirs, champion))


def _answers(tools: Tools, use_case: UseCase, version: str | None, columns: Columns) -> Outputs | None:
    """The champion's answers in its own code; None when there is no champion."""
    run_id = None if version is None else tools.registry.run_of(use_case.name, version)
    return None if run_id is None else tools.scorer.score(tools.tracker.folder(run_id), columns)


class Judged(NamedTuple):
    """Answers to the same held-out rows, and what happened."""

    use_case: UseCase
    columns: Columns
    actual: Values
    ours: Outputs
    theirs: Outputs | None
    """The champion's; None when there is no champion."""
    champion: str | None

    def metric(self, outputs: Outputs, where: Mask | None = None) -> float:
        """The gate's metric, of some rows."""
        kept = slice(None) if where is None else where
        some = {name: values[kept] for name, values in outputs.items()}
        return self.use_case.metrics[self.use_case.gate.metric](some, self.actual[kept])

    def against(self, others: Outputs, where: Mask | None = None) -> Interval:
        """The paired interval of candidate - others, of some rows."""
        asked, kept = self.use_case.gate, slice(None) if where is None else where
        return metrics.paired_interval(
            self.use_case.metrics[asked.metric],
            {name: values[kept] for name, values in self.ours.items()},
            {name: values[kept] for name, values in others.items()},
            self.actual[kept],
            confidence=asked.confidence, resamples=asked.resamples, seed=self.use_case.seed,
        )  # fmt: skip


class Finding(NamedTuple):
    """One question of the gate with its answer in words."""

    passed: bool
    told: str


def judge(judged: Judged) -> GateVerdict:
    """Enough rows, floor, champion, baseline, calibration, slices: every one must pass."""
    use_case = judged.use_case
    value = judged.metric(judged.ours)
    sound = np.isfinite(value)
    champion = None if judged.theirs is None else judged.against(judged.theirs)
    baseline = None if use_case.baseline is None else use_case.baseline(judged.columns)
    above = None if baseline is None else judged.against(baseline)
    errors = tuple(_calibration(judged)) if sound else ()
    parts = tuple(_slices(judged)) if sound else ()
    findings = [
        *_floor(judged, value),
        _against_champion(judged, champion),
        *_against_baseline(use_case, above),
        *_calibrated(errors),
        *_sliced(use_case, parts),
    ]
    failed = [each for each in findings if not each.passed]
    return GateVerdict(
        passed=not failed,
        reason="; ".join(each.told for each in failed or findings if each.told),
        metric=use_case.gate.metric,
        candidate=value if sound else None,
        champion=None if judged.theirs is None else _finite(judged.metric(judged.theirs)),
        champion_version=judged.champion,
        difference=_sound(champion),
        rows=len(judged.actual),
        baseline=None if baseline is None else _finite(judged.metric(baseline)),
        against_baseline=_sound(above),
        calibration=errors,
        slices=parts,
    )


def _floor(judged: Judged, value: float) -> Iterator[Finding]:
    asked, n = judged.use_case.gate, len(judged.actual)
    if n < asked.minimum_rows:
        yield Finding(False, f"{n} held-out rows, {asked.minimum_rows} needed")
    told = f"{asked.metric} {value:.4g} on {n} held-out rows, floor {asked.at_most:g}"
    yield Finding(value <= asked.at_most, told)


def _against_champion(judged: Judged, interval: Interval | None) -> Finding:
    if interval is None:
        return Finding(True, "first version, no champion to beat")
    margin = judged.use_case.gate.worse_by_at_most
    told = f"against version {judged.champion}: {_told(interval)}, margin {margin:+g}"
    return Finding(interval[2] <= margin, told)


def _against_baseline(use_case: UseCase, interval: Interval | None) -> Iterator[Finding]:
    if interval is not None:
        margin = use_case.gate.worse_than_baseline_by_at_most
        allowed = "" if margin is None else f", margin {margin:+g}"
        told = f"against no model: {_told(interval)}{allowed}"
        yield Finding(margin is None or interval[2] <= margin, told)


def _told(interval: Interval) -> str:
    return f"{interval[0]:+.4g} [{interval[1]:+.4g}, {interval[2]:+.4g}]"


def _calibration(judged: Judged) -> Iterator[CalibrationVerdict]:
    for asked in judged.use_case.calibrated:
        said, happened = judged.ours[asked.output], asked.event(judged.actual)
        yield CalibrationVerdict(
            output=asked.output,
            error=metrics.expected_calibration_error(said, happened, asked.bins),
            allowed=calibration.band(said, asked.bins, asked.confidence, judged.use_case.seed),
        )


def _calibrated(verdicts: tuple[CalibrationVerdict, ...]) -> Iterator[Finding]:
    for each in verdicts:
        told = f"{each.output} is off by {each.error:.3f} (a calibrated model: up to {each.allowed:.3f})"
        yield Finding(each.error <= each.allowed, told)


def _slices(judged: Judged) -> Iterator[SliceVerdict]:
    for name, where in slices.names(judged.use_case, judged.columns):
        if name != slices.ALL:
            yield SliceVerdict(
                name=name,
                rows=int(where.sum()),
                candidate=_finite(judged.metric(judged.ours, where)),
                against_champion=_against_champion_in(judged, where),
            )


def _against_champion_in(judged: Judged, where: Mask) -> Interval | None:
    if judged.theirs is None or where.sum() < judged.use_case.gate.minimum_rows:
        return None
    return _sound(judged.against(judged.theirs, where))


def _sliced(use_case: UseCase, verdicts: tuple[SliceVerdict, ...]) -> Iterator[Finding]:
    margin = use_case.gate.slice_worse_by_at_most
    for each in verdicts:
        interval = each.against_champion
        if margin is not None and interval is not None and interval[1] > margin:
            yield Finding(False, f"in {each.name} ({each.rows} rows): {_told(interval)}, margin {margin:+g}")


def _sound(interval: Interval | None) -> Interval | None:
    """Some metrics do not exist on some rows."""
    return interval if interval is not None and np.isfinite(interval).all() else None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
