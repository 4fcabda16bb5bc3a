"""The judge: from counts and sums of both arms to PROMOTE, ROLLBACK or HOLD, at any time, as often as one likes.

Each metric has a confidence sequence, whose lower end above the limit means ROLLBACK, whose upper end below it
PROMOTE, and HOLD otherwise. ROLLBACK of one metric is enough; PROMOTE is what all those waited for must say. Two
guarantees hold, over all looks, metrics and stages of one rollout:

- A model that is no worse than allowed in any metric, such as an equal one, is rolled back in at most `alpha` of
  rollouts. Any metric may raise that false alarm, so each gets an equal part of alpha for its lower end, and of
  that one counted anew in each stage (errors, latencies, losses that are not paired) an equal part in each
  (Bonferroni).
- A model that is worse by just what is allowed, or by more, in a metric that is waited for, is promoted in at most
  `alpha` of rollouts. That metric itself must err for it, and in the first stage already, so each upper end has
  the whole alpha (the intersection-union test: Berger 1982, Technometrics 24, 295-300).

Shift and calibration are bounded on both sides; each of their ends has half of the metric's part.

Samples: what a clock declares (`Least`) is waited for before PROMOTE. ROLLBACK does not wait for it, so that a
model which fails is gone within seconds: errors and latencies are judged by exact sequences, valid from the first
request on (but errors are FEWEST_ERRORS at least). The sequences of means are asymptotic, and say nothing at
all before FLOOR numbers are there.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.rollout import sequences
from pipelines.rollout.evidence import Arm, Evidence, Finding, Latencies, Least, Moments, Rates, Verdict, Word
from pipelines.rollout.sequences import Interval, Levels, Seen, Values
from pipelines.spec import RolloutPlan

Kind = Literal["shadow", "canary", "watch"]
Clock = Literal["fast", "slow"]

FLOOR = 100
"""So many numbers before a mean is judged: losses have heavy tails; the benchmark `judge` shows what it gives.
A harm that one answer in a hundred brings is not seen by a hundred: `Stage.labels` says how rare it may be."""
TUNING = 300.0
"""Numbers at which a mean's sequence is narrowest for its level."""
FEWEST_ERRORS = 5
"""Errors of the challenger before they roll it back: one broken client is no broken model."""
NO_LOSS = 1e-12
"""Of a champion with a smaller mean loss nothing can be told in percent."""
MOST = 1e9
"""A sample beyond this is not worth an estimate."""
NOW = np.ones(1)
UNITS = {"share": (100.0, " points"), "relative": (100.0, " %"), "": (1.0, "")}


class Sample(NamedTuple):
    """What has been counted, and over which time."""

    n: int
    seconds: float
    counted: str


class Measured(NamedTuple):
    """One metric, before its verdict."""

    metric: str
    clock: Clock
    unit: str
    limit: float
    sample: Sample
    value: float | None
    ends: Callable[[Values], Interval] | None
    """Of growth (...,) to both ends (...,): where they would lie were there so many times more of the same.
    None while there is too little to say anything."""
    missing: int = 0
    """So many more until it says anything."""
    both_sides: bool = False
    """Whether it must not lie below -limit either."""
    than: str = ""


class Waited(NamedTuple):
    """A clock's sample, and how much of it the stage waits for."""

    sample: Sample
    least: int

    @property
    def missing(self) -> int:
        """How much of it is not there yet."""
        return max(self.least - self.sample.n, 0)


class Wait(NamedTuple):
    """How long until more is known; `needs` or `seconds` None: no telling."""

    needs: int | None
    seconds: float | None
    counted: str

    @property
    def length(self) -> tuple[float, float]:
        """For comparing: the longest counts."""
        return math.inf if self.seconds is None else self.seconds, math.inf if self.needs is None else self.needs


def judge(plan: RolloutPlan, evidence: Evidence, kind: Kind, least: Least) -> Verdict:
    """The verdict of this moment; pure, and the same for the same numbers.

    Only in a canary do clients meet the challenger, so only there errors and latencies are compared. The output of
    every calibrated one, and of every one with a limit, is named in the evidence from the beginning on.
    """
    clocks = _clocks(evidence, kind, least)
    measured = tuple(_measured(plan, evidence, kind))
    findings = tuple(_finding(each, clocks[each.clock]) for each in measured)
    better, same = _beside(plan, evidence)
    word, why = _over_all(measured, findings, clocks)
    return Verdict(verdict=word, why=why, findings=findings, better=better, same=same)


def _clocks(evidence: Evidence, kind: Kind, least: Least) -> dict[Clock, Waited]:
    pairs = max((each.n for each in (*evidence.disagreement.values(), *evidence.shift.values())), default=0)
    requests = _rates(evidence, "challenger").requests
    fast = Sample(pairs, evidence.whole_seconds, "pairs")
    if kind == "canary":
        fast = Sample(requests, evidence.seconds, "requests")
    return {"fast": Waited(fast, least.fast), "slow": Waited(_labels(evidence), least.slow)}


def _labels(evidence: Evidence) -> Sample:
    if evidence.paired is not None:
        return Sample(evidence.paired.n, evidence.whole_seconds, "labelled pairs")
    return Sample(_losses(evidence, "challenger").n, evidence.whole_seconds, "labelled answers")


# --- what is measured -------------------------------------------------------------------------------------


def _measured(plan: RolloutPlan, evidence: Evidence, kind: Kind) -> Iterator[Measured]:
    part = _part(plan, evidence)
    if kind == "canary":
        yield from _of_stage(plan, evidence, Levels(part / max(len(plan.stages), 1), plan.alpha))
    one_side, both_sides = Levels(part, plan.alpha), Levels(part / 2, part / 2)
    for output, limit in plan.disagreement_at_most.items():
        moments = evidence.disagreement.get(output, Moments())
        yield _mean(f"disagreement {output}", "fast", limit, moments, evidence, one_side)
    for output, limit in plan.shift_at_most.items():
        moments = evidence.shift.get(output, Moments())
        yield _mean(f"shift {output}", "fast", limit, moments, evidence, both_sides)._replace(both_sides=True)
    stages = 1 if evidence.paired is not None else max(len(plan.stages), 1)
    yield _loss(plan, evidence, Levels(part / stages, plan.alpha))
    if plan.miscalibrated_by_at_most is not None:
        for output, moments in evidence.calibration.items():
            found = _mean(
                f"calibration {output}", "slow", plan.miscalibrated_by_at_most, moments, evidence, both_sides
            )
            yield found._replace(both_sides=True, unit="share")


def _part(plan: RolloutPlan, evidence: Evidence) -> float:
    """Each metric's part of alpha."""
    limits = (plan.latency_worse_by_at_most, plan.disagreement_at_most, plan.shift_at_most)
    calibrated = 0 if plan.miscalibrated_by_at_most is None else len(evidence.calibration)
    return plan.alpha / (len(("errors", "loss")) + sum(map(len, limits)) + calibrated)


def _of_stage(plan: RolloutPlan, evidence: Evidence, levels: Levels) -> Iterator[Measured]:
    challenger, champion = (_rates(evidence, arm) for arm in ("challenger", "champion"))
    yield _errors(challenger, champion, plan.errors_worse_by_at_most, evidence, levels)
    for name, allowed in plan.latency_worse_by_at_most.items():
        yield _latency(name, allowed, evidence, levels)


def _errors(challenger: Rates, champion: Rates, limit: float, evidence: Evidence, levels: Levels) -> Measured:
    def ends(grow: Values) -> Interval:
        ours, theirs = (
            sequences.counts(challenger, "challenger", grow),
            sequences.counts(champion, "champion", grow),
        )
        lower, upper = sequences.difference(ours, theirs, levels)
        return np.where(ours.errors >= FEWEST_ERRORS, lower, -1.0), upper

    known = min(challenger.requests, champion.requests) > 0
    value = challenger.errors / challenger.requests - champion.errors / champion.requests if known else None
    sample = Sample(challenger.requests, evidence.seconds, "requests")
    than = "more than the champion's"
    return Measured("errors", "fast", "share", limit, sample, value, ends if known else None, 1, than=than)


def _latency(name: str, allowed: float, evidence: Evidence, levels: Levels) -> Measured:
    p = int(name.removeprefix("p")) / 100
    challenger, champion = (evidence.latencies.get(arm, Latencies()) for arm in ("challenger", "champion"))

    def ends(grow: Values) -> Interval:
        ours, theirs = Seen.of(challenger, "challenger", grow), Seen.of(champion, "champion", grow)
        lower, upper = sequences.quantile_ratio(ours, theirs, p, levels)
        return lower - 1, upper - 1

    known = all(sum(arm.bins.values()) for arm in (challenger, champion))
    value = sequences.RATIO ** (_bin(challenger, p) - _bin(champion, p)) - 1 if known else None
    sample = Sample(sum(challenger.bins.values()), evidence.seconds, "requests")
    given = ends if known else None
    than = "worse than the champion's"
    return Measured(f"latency {name}", "fast", "relative", allowed, sample, value, given, 1, than=than)


def _bin(latencies: Latencies, p: float) -> int:
    """The bin of the p-quantile, as it was seen."""
    seen = Seen.of(latencies)
    return seen.first + int(np.searchsorted(seen.until[1:], p * seen.n[0]))


def _mean(
    metric: str, clock: Clock, limit: float, moments: Moments, evidence: Evidence, levels: Levels
) -> Measured:
    def ends(grow: Values) -> Interval:
        return sequences.mean(sequences.sample(moments, grow), levels, TUNING)

    counted = "pairs" if clock == "fast" else "labels"
    sample = Sample(moments.n, evidence.whole_seconds, counted)
    value = moments.total / moments.n if moments.n else None
    missing = max(FLOOR - moments.n, 0)
    return Measured(metric, clock, "", limit, sample, value, None if missing else ends, missing)


def _loss(plan: RolloutPlan, evidence: Evidence, levels: Levels) -> Measured:
    """What is judged is challenger's loss - (1 + allowed) x champion's, against 0.

    Shown relative to the champion's mean loss, taken as known; where that is below NO_LOSS, as it is.
    """
    allowed = plan.loss_worse_by_at_most
    excess = _difference(evidence.paired, 1 + allowed, evidence, levels)
    scale, value = _champions_loss(evidence), _excess(evidence, 1 + allowed)
    missing = _missing(evidence.paired, evidence)
    plain = Measured("loss", "slow", "", 0.0, _labels(evidence), value, excess, missing)
    shown = plain._replace(unit="relative", limit=allowed, than="worse than the champion's")
    if scale < NO_LOSS:
        return plain if excess else shown._replace(value=None)

    def relative(grow: Values) -> Interval:
        lower, upper = excess(grow) if excess else (-np.inf * grow, np.inf * grow)
        return allowed + lower / scale, allowed + upper / scale

    return shown._replace(
        value=None if value is None else allowed + value / scale, ends=relative if excess else None
    )


def _difference(
    paired: Moments | None, factor: float, evidence: Evidence, levels: Levels
) -> Callable[[Values], Interval] | None:
    """Ends of challenger's mean loss - factor x champion's: by the pairs' sums, else by the two arms."""
    if _missing(paired, evidence):
        return None
    if paired is not None:
        return lambda grow: sequences.mean(sequences.sample(paired, grow), levels, TUNING)

    def ends(grow: Values) -> Interval:
        ours, theirs = (sequences.sample(_losses(evidence, arm), grow) for arm in ("challenger", "champion"))
        return sequences.means(ours, theirs, factor, levels, TUNING)

    return ends


def _excess(evidence: Evidence, factor: float) -> float | None:
    if evidence.paired is not None:
        return evidence.paired.total / evidence.paired.n if evidence.paired.n else None
    challenger, champion = (_losses(evidence, arm) for arm in ("challenger", "champion"))
    if not (challenger.n and champion.n):
        return None
    return challenger.total / challenger.n - factor * champion.total / champion.n


def _champions_loss(evidence: Evidence) -> float:
    """Its mean so far."""
    champion = _losses(evidence, "champion")
    return champion.total / champion.n if champion.n else 0.0


def _missing(paired: Moments | None, evidence: Evidence) -> int:
    arms = (_losses(evidence, arm).n for arm in ("challenger", "champion"))
    return max(FLOOR - (min(arms) if paired is None else paired.n), 0)


def _beside(plan: RolloutPlan, evidence: Evidence) -> tuple[bool, bool]:
    """Whether the loss is surely lower, and whether it is surely within what is allowed on both sides.

    Each is wrongly said in at most alpha of rollouts. The distance is taken from the champion's mean loss so far.
    """
    if evidence.paired is not None and evidence.plain is None:
        return False, False
    ends = _difference(evidence.plain, 1.0, evidence, Levels(plan.alpha, plan.alpha))
    if ends is None:
        return False, False
    allowed = plan.loss_worse_by_at_most * _champions_loss(evidence)
    (lower,), (upper,) = ends(NOW)
    return bool(upper < 0), bool(-allowed < lower and upper < allowed)


def _rates(evidence: Evidence, arm: Arm) -> Rates:
    return evidence.rates.get(arm, Rates())


def _losses(evidence: Evidence, arm: Arm) -> Moments:
    return evidence.losses.get(arm, Moments())


# --- one verdict ------------------------------------------------------------------------------------------


def _finding(asked: Measured, clock: Waited) -> Finding:
    lower, upper = asked.ends(NOW) if asked.ends else (-np.inf * NOW, np.inf * NOW)
    word = _word(asked, lower, upper)
    own = Wait(_needs(asked) if word == "HOLD" else 0, None, asked.sample.counted)
    wait = max(_timed(own, asked.sample), _timed(_short(clock), clock.sample), key=lambda each: each.length)
    holds = word == "HOLD" or (word == "PROMOTE" and clock.missing > 0)
    return Finding(
        metric=asked.metric,
        clock=asked.clock,
        verdict="HOLD" if holds else word,
        value=asked.value,
        lower=_finite(lower),
        upper=_finite(upper),
        limit=asked.limit,
        unit=asked.unit,
        n=asked.sample.n,
        counted=wait.counted if holds else asked.sample.counted,
        needs=wait.needs if holds else None,
        seconds=wait.seconds if holds else None,
    )


def _word(asked: Measured, lower: Values, upper: Values) -> Word:
    worse, fine = _decided(asked, lower, upper)
    return "ROLLBACK" if worse.any() else "PROMOTE" if fine.any() else "HOLD"


def _decided(asked: Measured, lower: Values, upper: Values) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether it is surely worse than allowed, and whether it is surely not; (...,) each."""
    least = -asked.limit if asked.both_sides else -np.inf
    return (lower > asked.limit) | (upper < least), (upper < asked.limit) & (lower > least)


def _needs(asked: Measured) -> int | None:
    """How many more until it is decided, were they like those so far; within some percent."""
    if asked.ends is None:
        return asked.missing
    low, high = 1.0, MOST / asked.sample.n
    for _ in range(2):
        grow = np.geomspace(low, max(high, low), 17)
        worse, fine = _decided(asked, *asked.ends(grow))
        first = int(np.argmax(worse | fine))
        if not first:
            return None
        low, high = float(grow[first - 1]), float(grow[first])
    return math.ceil((high - 1) * asked.sample.n)


def _short(clock: Waited) -> Wait:
    return Wait(clock.missing, None, clock.sample.counted)


def _timed(wait: Wait, sample: Sample) -> Wait:
    """At the rate of that sample so far."""
    if wait.needs == 0:
        return wait._replace(seconds=0.0)
    if wait.needs is None or not sample.n or sample.seconds <= 0:
        return wait
    return wait._replace(seconds=wait.needs * sample.seconds / sample.n)


def _finite(end: Values) -> float | None:
    value = float(end[0])
    return value if math.isfinite(value) else None


# --- all together -----------------------------------------------------------------------------------------


def _over_all(
    measured: tuple[Measured, ...], findings: tuple[Finding, ...], clocks: dict[Clock, Waited]
) -> tuple[Word, str]:
    for asked, found in zip(measured, findings, strict=True):
        if found.verdict == "ROLLBACK":
            return "ROLLBACK", _told(asked, found)
    waited = [found for found in findings if clocks[found.clock].least > 0]
    pending = [(found.metric, _wait(found)) for found in waited if found.verdict == "HOLD"]
    pending += [("", _timed(_short(each), each.sample)) for each in clocks.values() if each.missing]
    if pending:
        return "HOLD", _waits(*max(pending, key=lambda each: each[1].length))
    samples = [f"{each.sample.n} {each.sample.counted}" for each in clocks.values() if each.least > 0]
    if not samples:
        return "PROMOTE", "nothing is waited for, and nothing is surely worse than allowed"
    names = ", ".join(found.metric for found in waited)
    said = f"{names} surely not worse than allowed" if names else "nothing is judged here"
    return "PROMOTE", f"{said}, on {' and '.join(samples)}"


def _wait(found: Finding) -> Wait:
    return Wait(found.needs, found.seconds, found.counted)


def _told(asked: Measured, found: Finding) -> str:
    value, lower, upper, limit = (
        _shown(each, found.unit) for each in (found.value, found.lower, found.upper, found.limit)
    )
    than = f" {asked.than}" if asked.than else ""
    return f"{found.metric} {value} [{lower}, {upper}]{than}, allowed {limit}, on {found.n} {found.counted}"


def _shown(value: float | None, unit: str) -> str:
    factor, word = UNITS[unit]
    return "?" if value is None else f"{factor * value:.3g}{word}"


def _waits(metric: str, wait: Wait) -> str:
    of = f" for {metric}" if metric else ""
    if wait.needs is None:
        return f"{metric} lies so near to what is allowed that no sample in reach tells them apart"
    if wait.seconds is None:
        return f"waits for {wait.needs} more {wait.counted}{of}; none come at present"
    return f"waits for {wait.needs} more {wait.counted}{of}, about {_lasting(wait.seconds)} at the present rate"


def _lasting(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
