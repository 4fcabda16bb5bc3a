"""What the judge's verdicts cost and how often they are wrong: 10,000 simulated rollouts a case.

One stage with 10 % of the requests; looked at after every request, or after every label. The functions are the
judge's own (`pipelines.rollout.sequences`): a verdict is the first moment at which the evidence against the limit
reaches the level that the judge gives to that metric, which is when the end of its interval passes the limit.

- Equal models, all metrics of the plan together: how many are rolled back. Worse by just what is allowed, in one
  metric: how many does that metric promote. Both must stay below alpha; the ratio is share / alpha.
- Worse by more: requests or labels until ROLLBACK, beside a fixed sample of the same level with 95 % power
  (counted once, at its end), and beside Mann and Whitney's test at fixed intervals, each at alpha, as canaries
  are judged elsewhere; how often that raises a false alarm on equal models stands beside it.

Requests fail independently; latencies are log-normal (sigma 0.5); losses are squared errors of two models that
share the noise of what they predict (Student's t, 5 degrees) and have a tenth as much of their own.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from pipelines.rollout import sequences
from pipelines.rollout.evidence import Arm
from pipelines.rollout.judge import FEWEST_ERRORS, FLOOR, TUNING
from pipelines.rollout.sequences import STRENGTH, Counts, Levels, Sample, Seen, Steps, Values
from pipelines.spec import RolloutPlan, Stage
from tests.benchmarks import Report, Result, holds

RUNS = 10_000
SHARE, POWER = 0.1, 0.95
PLAN = RolloutPlan(
    stages=(Stage(weight=100 * SHARE),),
    errors_worse_by_at_most=0.005,
    latency_worse_by_at_most={"p50": 0.05, "p95": 0.05},
    loss_worse_by_at_most=0.01,
)
METRICS = 4
LEVELS = Levels(PLAN.alpha / METRICS, PLAN.alpha)
FAILING, SIGMA, OWN = 0.02, 0.5, 0.1
REQUESTS, LABELS = 20_000, 5000
"""How long a rollout is looked at in the equal case and on the limit."""
LATER, LATER_LABELS = 60_000, 30_000
"""How long for those that are worse."""
BLOCK, CHUNK = 100, 250
BLOCKS = 10
"""So many are looked through at a time, for what comes after a verdict needs no look."""
EVERY = 100
"""Canary requests or labels between two looks of the other test."""
TABLE = Path(".results/judge.json")
INTRODUCTION = f"""\
The judge of rollouts, {RUNS:,} simulated ones a case (`python -m tests.benchmarks judge`): one stage with 10 % of
the requests, alpha 5 % over four metrics, looked at after every request or label, for {REQUESTS:,} requests or
{LABELS:,} labels, of worse models up to {LATER:,} or {LATER_LABELS:,}. Fixed sample: one look at its end, the
same level, 95 % power. Mann-Whitney: each metric at 5 % after every 100 canary requests or labels; it asks whether
the challenger is worse at all, not whether by more than allowed, and its false alarms are those on equal models.
"""
COLUMNS = (
    "case", "rolled back", "promoted", "to ROLLBACK: median / 95 %", "fixed sample",
    "Mann-Whitney: median / 95 %; false alarms",
)  # fmt: skip
Marks = Callable[[np.random.Generator, NDArray[np.bool_]], NDArray[np.int16]]
"""Whether a request went to the challenger, (runs, requests), to what it showed: a latency's bin, or an error."""


class Question(NamedTuple):
    """Evidence that the rate of hits of `one` is below, that of `other` above its own: one plane of a verdict.

    Hits are marks below a bound. Any plane's evidence is at least the verdict's, so that what a plane rules out
    needs no closer look.
    """

    one: Arm
    one_rate: float
    one_bound: int
    other_rate: float
    other_bound: int

    def evidence(self, hits: Values, n: Values, others: Values, m: Values) -> Values:
        """Log evidence by the hits of n and of m requests, (...,)."""
        other: Arm = "champion" if self.one == "challenger" else "challenger"
        low = sequences.below(hits, n, self.one_rate, STRENGTH[self.one])
        return low + sequences.above(others, m, self.other_rate, STRENGTH[other])


class Verdicts(NamedTuple):
    """What is asked of a metric: whether `one` is surely above the other by the limit."""

    one: Arm
    needed: float
    guess: Question
    plane: Callable[[float], Question]
    worst: Callable[[NDArray[np.int16], NDArray[np.bool_]], tuple[float, float]]
    """Of the marks of one run so far, and whose they are, to the evidence and where the worst plane lies."""
    fewest: int = 0
    """Errors of the challenger before it counts."""


# --- the two kinds of metrics -----------------------------------------------------------------------------


def errors(one: Arm, challenger: float) -> Verdicts:
    """Whether errors say ROLLBACK (`one` is the challenger) or PROMOTE, where the champion's rate is FAILING."""
    by = PLAN.errors_worse_by_at_most * (1 if one == "challenger" else -1)
    rates = (challenger, FAILING) if one == "challenger" else (FAILING, challenger)
    share = 1 - SHARE if one == "challenger" else SHARE

    def plane(rate: float) -> Question:
        return Question(one, 1 - rate - by, 1, 1 - rate, 1)

    def worst(marks: NDArray[np.int16], ours: NDArray[np.bool_]) -> tuple[float, float]:
        mine = ours if one == "challenger" else ~ours
        pair = [
            Counts(_one(marks[side].sum()), _one(side.sum()), STRENGTH[arm]) for side, arm in _sides(one, mine)
        ]
        ends = sorted(
            float(each.errors / max(each.n, 1)) - away for each, away in zip(pair, (by, 0.0), strict=True)
        )
        tried = np.linspace(max(1e-6, ends[0] / 2), 1.5 * max(ends[1], rates[1]), 150)
        found = sequences.apart(*pair, by, tried)
        return float(found.min()), float(tried[found.argmin()])

    guess = plane(max(1e-6, share * rates[1] + (1 - share) * (rates[0] - by)))
    fewest = FEWEST_ERRORS if one == "challenger" else 0
    return Verdicts(one, _needed(one), guess, plane, worst, fewest)


def latency(one: Arm, p: float, factor: float) -> Verdicts:
    """The same of the p-quantile, where the challenger takes `factor` times as long."""
    allowed = math.log1p(next(iter(PLAN.latency_worse_by_at_most.values()))) / math.log(sequences.RATIO)
    steps = math.ceil(allowed) if one == "challenger" else -math.floor(allowed)
    share = 1 - SHARE if one == "challenger" else SHARE
    scale = factor if one == "challenger" else 1 / factor
    base = SIGMA * norm.ppf(p) + (0.0 if one == "challenger" else math.log(factor))

    def plane(place: float) -> Question:
        return Question(one, p, int(place) + 1 + steps, p, int(place))

    def worst(marks: NDArray[np.int16], ours: NDArray[np.bool_]) -> tuple[float, float]:
        mine = ours if one == "challenger" else ~ours
        pair = [_seen(marks[side], arm) for side, arm in _sides(one, mine)]
        found = Steps.of(*pair, p).each(np.asarray(steps))
        place = int(found.argmin())
        return float(found[place]), place + pair[1].first if place < found.size - 1 else 30_000

    away = math.log(scale) - steps * math.log(sequences.RATIO)
    guess = plane(math.floor((base + (1 - share) * away) / math.log(sequences.RATIO)))
    return Verdicts(one, _needed(one), guess, plane, worst)


def _needed(one: Arm) -> float:
    return -math.log(LEVELS.lower if one == "challenger" else LEVELS.upper)


def _one(value: float) -> Values:
    return np.asarray(value, np.float64)


def _sides(
    one: Arm, mine: NDArray[np.bool_]
) -> tuple[tuple[NDArray[np.bool_], Arm], tuple[NDArray[np.bool_], Arm]]:
    return (mine, one), (~mine, "champion" if one == "challenger" else "challenger")


def _seen(bins: NDArray[np.int16], arm: Arm) -> Seen:
    first = int(bins.min(initial=0))
    held = np.bincount(bins - first, minlength=1)
    return Seen(first, np.append(0.0, np.cumsum(held)), np.asarray([float(bins.size)]), STRENGTH[arm])


def failing(challenger: float) -> Marks:
    """Requests of which so many fail."""

    def marks(random: np.random.Generator, ours: NDArray[np.bool_]) -> NDArray[np.int16]:
        rate = np.where(ours, np.float32(challenger), np.float32(FAILING))
        return (random.random(ours.shape, np.float32) < rate).astype(np.int16)

    return marks


def lasting(factor: float) -> Marks:
    """Requests that take so many times as long at the challenger, as bins."""

    def marks(random: np.random.Generator, ours: NDArray[np.bool_]) -> NDArray[np.int16]:
        logs = random.standard_normal(ours.shape, np.float32) * np.float32(SIGMA)
        logs += np.where(ours, np.float32(math.log(factor)), np.float32(0.0))
        return np.floor(logs / np.float32(math.log(sequences.RATIO))).astype(np.int16)

    return marks


# --- after every request ----------------------------------------------------------------------------------


def moments(asked: list[Verdicts], marks: Marks, requests: int, seed: int, runs: int) -> Values:
    """After how many requests each run has the first of the verdicts asked for, (runs,); infinity: not at all."""
    found = np.full(runs, np.inf)
    random = np.random.default_rng(seed)
    for begin in range(0, runs, CHUNK):
        size = min(CHUNK, runs - begin)
        ours = random.random((size, requests), np.float32) < SHARE
        shown = marks(random, ours)
        for verdicts in asked:
            for run, moment in _first(verdicts, shown, ours):
                found[begin + run] = min(found[begin + run], moment)
    return found


def _first(asked: Verdicts, marks: NDArray[np.int16], ours: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(run, requests until its verdict), of the runs that get one.

    Blocks of requests whose best order would not do by the guessed plane are passed over; of what is left each
    request is looked at by that plane, and where that would do by all planes.
    """
    mine = ours if asked.one == "challenger" else ~ours
    until = _until(asked.guess, marks, mine)
    possible = _possible(asked, *until)
    turn = (possible.cumsum(axis=1) - 1) // BLOCKS
    open_ = np.ones(len(marks), np.bool_)
    for now in range(int(turn.max(initial=0)) + 1):
        chosen = possible & (turn == now) & open_[:, None]
        suspects = _suspects(asked, until, marks, mine, *np.nonzero(chosen))
        for run in np.unique(suspects[:, 0]):
            times = suspects[suspects[:, 0] == run, 1]
            moment = _verdict(asked, marks[run], ours[run], mine[run], times)
            if moment:
                open_[run] = False
                yield int(run), moment


def _possible(asked: Verdicts, hits: Values, n: Values, others: Values, m: Values) -> NDArray[np.bool_]:
    """Blocks whose guessed plane could do if misses of one and hits of the other came first; (runs, blocks)."""
    missed, added = (n - hits)[:, 1:] - (n - hits)[:, :-1], others[:, 1:] - others[:, :-1]
    best = asked.guess.evidence(hits[:, :-1], n[:, :-1] + missed, others[:, 1:], m[:, :-1] + added)
    return best >= asked.needed


def _until(plane: Question, marks: NDArray[np.int16], mine: NDArray[np.bool_]) -> tuple[Values, ...]:
    """Hits and requests of one, then of the other, until each block's begin, (runs, blocks + 1)."""
    hit, there = mine & (marks < plane.one_bound), ~mine & (marks < plane.other_bound)
    counted = []
    for each in (hit, mine, there, ~mine):
        summed = each.reshape(len(marks), -1, BLOCK).sum(axis=-1).cumsum(axis=-1)
        counted.append(np.concatenate((np.zeros((len(marks), 1)), summed), axis=1))
    return tuple(counted)


def _suspects(
    asked: Verdicts,
    until: tuple[Values, ...],
    marks: NDArray[np.int16],
    mine: NDArray[np.bool_],
    runs: NDArray[np.int64],
    blocks: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(run, request) of those blocks after which the guessed plane does, in their order."""
    before = [each[runs, blocks] for each in until]
    at = blocks[:, None] * BLOCK + np.arange(BLOCK)
    shown, side = marks[runs[:, None], at], mine[runs[:, None], at]
    seen = (
        side & (shown < asked.guess.one_bound),
        side,
        ~side & (shown < asked.guess.other_bound),
        ~side,
    )
    counted = (old[:, None] + each.cumsum(axis=1) for old, each in zip(before, seen, strict=True))
    which, place = np.nonzero(asked.guess.evidence(*counted) >= asked.needed)
    return np.stack((runs[which], at[which, place]), axis=1)


def _verdict(
    asked: Verdicts,
    marks: NDArray[np.int16],
    ours: NDArray[np.bool_],
    mine: NDArray[np.bool_],
    times: NDArray[np.int64],
) -> int | None:
    """The first of these requests after which every plane does; each that did not is remembered for the next."""
    if asked.fewest:
        times = times[np.cumsum(marks * ours)[times] >= asked.fewest]
    last = int(times[-1]) + 1 if times.size else 0
    marks, ours, mine = marks[:last], ours[:last], mine[:last]
    while times.size:
        found, place = asked.worst(marks[: times[0] + 1], ours[: times[0] + 1])
        if found >= asked.needed:
            return int(times[0]) + 1
        plane = asked.plane(place)
        hit, there = mine & (marks < plane.one_bound), ~mine & (marks < plane.other_bound)
        counted = [np.cumsum(each, dtype=np.float64) for each in (hit, mine, there, ~mine)]
        times = _next(plane, counted, times[1:], asked.needed)
    return None


def _next(plane: Question, counted: list[Values], times: NDArray[np.int64], needed: float) -> NDArray[np.int64]:
    """Of these times those from the first on at which the plane does."""
    for begin in range(0, times.size, 200):
        some = times[begin : begin + 200]
        does = plane.evidence(*(each[some] for each in counted)) >= needed
        if does.any():
            return times[begin + int(does.argmax()) :]
    return times[:0]


# --- after every label ------------------------------------------------------------------------------------


def losses(random: np.random.Generator, worse: float, shape: tuple[int, ...]) -> tuple[Values, Values]:
    """Squared errors of challenger and champion on the same labels; the challenger's mean is higher by `worse`."""
    noise = random.standard_t(5, shape) / math.sqrt(5 / 3)
    theirs = noise + math.sqrt(OWN) * random.standard_normal(shape)
    ours = noise + math.sqrt(OWN + worse * (1 + OWN)) * random.standard_normal(shape)
    return np.square(ours), np.square(theirs)


def labels(worse: float, length: int, seed: int, runs: int) -> tuple[Values, Values]:
    """After how many labels each run says ROLLBACK, and after how many PROMOTE, (runs,) each."""
    random = np.random.default_rng(seed)
    found = []
    n = np.arange(1.0, length + 1)[FLOOR - 1 :]
    for begin in range(0, runs, CHUNK):
        ours, theirs = losses(random, worse, (min(CHUNK, runs - begin), length))
        excess = ours - (1 + PLAN.loss_worse_by_at_most) * theirs
        total, squares = (np.cumsum(each, axis=1)[:, FLOOR - 1 :] for each in (excess, excess**2))
        mean = total / n
        variance = (squares / n - mean**2) * n / (n - 1)
        lower, upper = sequences.mean(Sample(n, mean, variance), LEVELS, TUNING)
        found.append([_reached(each, n) for each in (lower > 0, upper < 0)])
    rollback, promote = (np.concatenate(each) for each in zip(*found, strict=True))
    return rollback, promote


def _reached(does: NDArray[np.bool_], n: Values) -> Values:
    """The first n at which it does, (runs,); infinity where it never does."""
    return np.where(does.any(axis=1), n[does.argmax(axis=1)], np.inf)


# --- beside it --------------------------------------------------------------------------------------------


def fixed(spread: float, over: float) -> float:
    """Sample of a one-sided test of the judge's level with POWER, where the estimate's variance is spread / n."""
    return spread * ((norm.isf(LEVELS.lower) + norm.isf(1 - POWER)) / over) ** 2


def of_requests(ours: float, theirs: float, over: float) -> float:
    """That in requests of both arms, by the variances of one request each."""
    return fixed(ours / SHARE + theirs / (1 - SHARE), over)


def fixed_latency(factor: float) -> float:
    """By the p50, the better known of the two: the variance of a quantile's logarithm, Serfling 1980, 2.3.3."""
    spread = SIGMA**2 * 0.25 / norm.pdf(0) ** 2
    return of_requests(spread, spread, math.log(factor / 1.05))


def fixed_loss(worse: float) -> float:
    """In labelled pairs; the variance from a million of them."""
    ours, theirs = losses(np.random.default_rng(0), worse, (1_000_000,))
    excess = ours - (1 + PLAN.loss_worse_by_at_most) * theirs
    return fixed(float(excess.var()), (worse - PLAN.loss_worse_by_at_most) * (1 + OWN))


class Drawn(NamedTuple):
    """Numbers of each arm between two looks, as counts in bins (runs, bins), in ascending order."""

    ours: Values
    theirs: Values


def mann_whitney(draw: Callable[[np.random.Generator, int], Drawn], looks: int, seed: int, runs: int) -> Values:
    """After how many looks the one-sided test first says worse at PLAN.alpha, (runs,); infinity: never.

    Mann and Whitney 1947, by the normal approximation with ties.
    """
    random = np.random.default_rng(seed)
    found, ours, theirs = np.full(runs, np.inf), 0.0, 0.0
    for look in range(1, looks + 1):
        more = draw(random, runs)
        ours, theirs = ours + more.ours, theirs + more.theirs
        found[np.isinf(found) & (_score(ours, theirs) > norm.isf(PLAN.alpha))] = look
    return found


def _score(ours: Values, theirs: Values) -> Values:
    n, m, both = ours.sum(axis=1), theirs.sum(axis=1), ours + theirs
    above = (ours * (np.cumsum(theirs, axis=1) - theirs / 2)).sum(axis=1)
    ties = (both**3 - both).sum(axis=1) / ((n + m) * (n + m - 1))
    spread = np.sqrt(np.maximum(n * m / 12 * (n + m + 1 - ties), 1e-12))
    return np.asarray((above - n * m / 2) / spread)


def drawn_errors(challenger: float) -> Callable[[np.random.Generator, int], Drawn]:
    """Failed or not."""
    return _drawn([1 - challenger, challenger], [1 - FAILING, FAILING])


def drawn_latencies(factor: float) -> Callable[[np.random.Generator, int], Drawn]:
    """In 100 bins, equally likely at the champion."""
    edges = norm.ppf(np.linspace(0, 1, 101))
    return _drawn(np.diff(norm.cdf(edges - math.log(factor) / SIGMA)), np.full(100, 0.01))


def _drawn(ours: object, theirs: object) -> Callable[[np.random.Generator, int], Drawn]:
    several = round(EVERY * (1 - SHARE) / SHARE)
    return lambda random, runs: Drawn(
        random.multinomial(EVERY, ours, runs).astype(float),
        random.multinomial(several, theirs, runs).astype(float),
    )


def drawn_losses(worse: float) -> Callable[[np.random.Generator, int], Drawn]:
    """Of the same labels, one arm beside the other, in 100 bins."""
    edges = np.quantile(losses(np.random.default_rng(0), 0.0, (100_000,))[1], np.linspace(0.01, 0.99, 99))

    def draw(random: np.random.Generator, runs: int) -> Drawn:
        places = (np.searchsorted(edges, each) for each in losses(random, worse, (runs, EVERY)))
        shift = 100 * np.arange(runs)[:, None]
        return Drawn(*(np.bincount((p + shift).ravel(), minlength=100 * runs).reshape(runs, 100) for p in places))

    return draw


# --- the cases --------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of the README's table."""

    case: str
    unit: str
    rolled_back: float
    promoted: float | None
    median: float | None
    most: float | None
    """Of 95 % of the runs."""
    fixed: float | None
    other_median: float | None
    other_most: float | None
    other_false: float


def run(runs: int = RUNS) -> Report:
    """Measure; some minutes on one core."""
    false = _false_alarms(runs)
    rows = [*_equal(runs, false), *_on_the_limit(runs, false), *_worse(runs, false)]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    return Report(list(_results(rows, runs)))


def _false_alarms(runs: int) -> dict[str, Values]:
    """Runs of equal models in which the other test says worse, by metric."""
    looks = round(REQUESTS * SHARE / EVERY)
    return {
        "errors": np.isfinite(mann_whitney(drawn_errors(FAILING), looks, 21, runs)),
        "latency": np.isfinite(mann_whitney(drawn_latencies(1.0), looks, 22, runs)),
        "loss": np.isfinite(mann_whitney(drawn_losses(0.0), LABELS // EVERY, 23, runs)),
    }


def _equal(runs: int, false: dict[str, Values]) -> Iterator[Row]:
    rolled = np.isfinite(moments([errors("challenger", FAILING)], failing(FAILING), REQUESTS, 1, runs))
    both = [latency("challenger", p, 1.0) for p in (0.5, 0.95)]
    rolled |= np.isfinite(moments(both, lasting(1.0), REQUESTS, 2, runs))
    rolled |= np.isfinite(labels(0.0, LABELS, 3, runs)[0])
    alarms = np.any(list(false.values()), axis=0).mean()
    case = "equal models, all metrics together"
    yield Row(case, "", rolled.mean(), None, None, None, None, None, None, float(alarms))


def _on_the_limit(runs: int, false: dict[str, Values]) -> Iterator[Row]:
    """Rolled back may be the metric's part of alpha, for it is no worse than allowed; promoted may be alpha."""
    worse = FAILING + PLAN.errors_worse_by_at_most
    found = [
        np.isfinite(moments([errors(arm, worse)], failing(worse), REQUESTS, seed, runs)).mean()
        for arm, seed in (("challenger", 4), ("champion", 5))
    ]
    yield _limit("errors 2 % → 2.5 %, all of it allowed", found, false["errors"])
    found = [
        np.isfinite(moments([latency(arm, 0.95, 1.05)], lasting(1.05), REQUESTS, seed, runs)).mean()
        for arm, seed in (("challenger", 6), ("champion", 7))
    ]
    yield _limit("latency p95 +5 %, all of it allowed", found, false["latency"])
    found = [np.isfinite(each).mean() for each in labels(PLAN.loss_worse_by_at_most, LABELS, 8, runs)]
    yield _limit("loss +1 %, all of it allowed", found, false["loss"])


def _limit(case: str, found: list[float], false: Values) -> Row:
    return Row(case, "", found[0], found[1], None, None, None, None, None, float(false.mean()))


def _worse(runs: int, false: dict[str, Values]) -> Iterator[Row]:
    doubled = 2 * FAILING
    over = doubled - FAILING - PLAN.errors_worse_by_at_most
    ours = moments([errors("challenger", doubled)], failing(doubled), LATER, 9, runs)
    sample = of_requests(doubled * (1 - doubled), FAILING * (1 - FAILING), over)
    other = mann_whitney(drawn_errors(doubled), LATER // 1000, 10, runs) * EVERY / SHARE
    yield _found("errors 2 % → 4 %, 0.5 points allowed", "requests", ours, sample, other, false["errors"])
    both = [latency("challenger", p, 1.2) for p in (0.5, 0.95)]
    ours = moments(both, lasting(1.2), REQUESTS, 11, runs)
    other = mann_whitney(drawn_latencies(1.2), 40, 12, runs) * EVERY / SHARE
    yield _found("latency +20 %, 5 % allowed", "requests", ours, fixed_latency(1.2), other, false["latency"])
    for worse, length, seed in ((0.05, LATER_LABELS, 13), (0.10, LATER_LABELS // 2, 15)):
        ours, _ = labels(worse, length, seed, runs)
        other = mann_whitney(drawn_losses(worse), 2 * LABELS // EVERY, seed + 1, runs) * EVERY
        case = f"loss +{worse:.0%}, 1 % allowed".replace("%,", " %,")
        yield _found(case, "labels", ours, fixed_loss(worse), other, false["loss"])


def _found(case: str, unit: str, ours: Values, sample: float, other: Values, false: Values) -> Row:
    half, most, other_half, other_most = (_within(each, share) for each in (ours, other) for share in (0.5, 0.95))
    rolled = np.isfinite(ours).mean()
    return Row(case, unit, rolled, None, half, most, sample, other_half, other_most, float(false.mean()))


def _within(found: Values, share: float) -> float | None:
    """After how many that share of the runs has its verdict; None: it does not."""
    value = float(np.quantile(found, share, method="higher"))
    return value if math.isfinite(value) else None


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = f"| {' | '.join(COLUMNS)} |"
    return "\n".join([INTRODUCTION, head, "|---" * len(COLUMNS) + "|", *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    shares = (_percent(row.rolled_back), "not asked" if row.promoted is None else _percent(row.promoted))
    if row.fixed is None:
        return f"| {row.case} | {shares[0]} | {shares[1]} | | | {_percent(row.other_false)} |"
    ours, other = (
        f"{_counted(half)} / {_counted(most)}"
        for half, most in ((row.median, row.most), (row.other_median, row.other_most))
    )
    fixed = _counted(row.fixed)
    return (
        f"| {row.case} | {shares[0]} | {shares[1]} | {ours} {row.unit} | {fixed} | "
        f"{other}; {_percent(row.other_false)} |"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.3g} %"


def _counted(value: float | None) -> str:
    return "not seen" if value is None else f"{value:,.0f}"


def kept() -> list[Row]:
    """The rows of the last run, if there was one."""
    return [Row(**row) for row in json.loads(TABLE.read_text())] if TABLE.exists() else []


def _results(rows: list[Row], runs: int) -> Iterator[Result]:
    for row in rows:
        if row.fixed is None:
            of, share = (
                ("promoted", row.promoted) if row.promoted is not None else ("rolled back", row.rolled_back)
            )
            ratio, alpha = share / PLAN.alpha, 100 * PLAN.alpha
            aim = "<= 1"
            yield Result(
                f"{row.case}: {of}", "%", "alpha", 100 * share, alpha, ratio, aim, holds(aim, ratio), runs
            )
        elif row.median is not None:
            ratio = row.median / row.fixed
            name = f"{row.case}: median {row.unit} to ROLLBACK"
            against = "fixed sample of the same level, 95 % power"
            yield Result(name, row.unit, against, row.median, row.fixed, ratio, "", None, runs)
