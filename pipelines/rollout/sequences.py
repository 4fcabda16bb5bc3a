"""Confidence sequences: intervals that hold at all sample sizes at once, so that one may look after every request.

Each end of an interval fails, at any time whatsoever, with a probability of at most its level. Behind each lies a
process of evidence that is 1 in expectation while what it speaks against is true, and so exceeds 1 / level at any
time with a probability of at most that level (Ville 1939). All functions broadcast over arrays.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaln, xlog1py, xlogy

from pipelines.rollout.evidence import Arm, Latencies, Moments, Rates

Values = NDArray[np.float64]
Interval = tuple[Values, Values]
Number = Values | float

RATIO = 1.01
"""Of a latency bin's upper edge to its lower one."""
STRENGTH: dict[Arm, float] = {"challenger": 100.0, "champion": 300.0}
"""Requests that the prior around a rate is worth: the sequence is sharpest at some times as many."""
UNMOVED = 0.1
"""Of that prior: the part that bets on nothing. The evidence never falls below it, however the data lie."""
RAREST = 1e-9
SMALLEST = float(np.finfo(np.float64).tiny)
"""Below it a number has lost digits; as nothing it speaks for nothing."""
NEAR = np.linspace(-7, 7, 241)
"""Standard errors around an estimate."""
FAR = np.linspace(0, math.pi / 2, 49)


def _array(values: ArrayLike) -> Values:
    return np.asarray(values, np.float64)


class Levels(NamedTuple):
    """With which probability each end may fail."""

    lower: float
    upper: float


class Sample(NamedTuple):
    """Numbers by their count, mean and variance; each (...,)."""

    n: Values
    mean: Values
    variance: Values


class Counts(NamedTuple):
    """Of n requests, how many failed; each (...,)."""

    errors: Values
    n: Values
    strength: float


def sample(moments: Moments, grow: Number = 1.0) -> Sample:
    """These numbers, or `grow` times as many with the same mean and variance; at least two."""
    size = _array(grow)
    mean = moments.total / moments.n
    spread = max(moments.squares / moments.n - mean**2, 0.0) * moments.n / (moments.n - 1)
    return Sample(moments.n * size, mean + 0 * size, spread + 0 * size)


def counts(rates: Rates, arm: Arm, grow: Number = 1.0) -> Counts:
    """These requests, or `grow` times as many with the same share of errors (a retry may fail twice)."""
    size = _array(grow)
    return Counts(min(rates.errors, rates.requests) * size, rates.requests * size, STRENGTH[arm])


# --- one rate ---------------------------------------------------------------------------------------------


def likelihood(successes: Number, n: Number, rate: Number) -> Values:
    """Log likelihood of these successes at that rate; -inf where it cannot be; (...,)."""
    s = _array(successes)
    return _array(xlogy(s, rate) + xlog1py(_array(n) - s, -_array(rate)))


# --- two rates --------------------------------------------------------------------------------------------


def above(successes: Number, n: Number, p: Number, strength: float) -> Values:
    """Log evidence that successes come at a rate above p, (...,); grows with the successes, falls with p.

    The one-sided beta-binomial mixture (Howard et al. 2021): rates are drawn from Beta(strength x (p, 1 - p)) cut
    to those above p, but for UNMOVED. Of a p nearer to 0 or 1 than RAREST it says less than it could.
    """
    rate = np.clip(p, RAREST, 1 - RAREST)
    a, b = strength * rate, strength * (1 - rate)
    s = _array(successes)
    f = _array(n) - s
    with np.errstate(divide="ignore"):
        tail = betainc(b + f, a + s, 1 - rate)
        cut = np.log(np.where(tail < SMALLEST, 0.0, tail)) - np.log(betainc(b, a, 1 - rate))
    moved = betaln(a + s, b + f) - betaln(a, b) - likelihood(s, s + f, rate) + cut
    moved = np.where(rate < p, -np.inf, moved)
    return _array(np.logaddexp(math.log(UNMOVED), math.log1p(-UNMOVED) + moved))


def below(successes: Number, n: Number, p: Number, strength: float) -> Values:
    """Log evidence that successes come at a rate below p, (...,)."""
    return above(_array(n) - _array(successes), n, 1 - _array(p), strength)


def apart(one: Counts, other: Counts, by: Number, rate: Number) -> Values:
    """Log evidence that p of `one` > p of `other` + by, should the other's be `rate`; (...,).

    The product of each arm's evidence is evidence too, however requests are split, also where that changes.
    """
    return above(*one[:2], _array(rate) + by, one.strength) + below(*other[:2], rate, other.strength)


def difference(challenger: Counts, champion: Counts, levels: Levels) -> Interval:
    """Ends of p1 - p0, (...,): all differences that some pair of rates has which `apart` does not speak against.

    The evidence against a set is what there is against the member that it speaks least against (Wasserman, Ramdas
    and Balakrishnan 2020, "Universal inference", PNAS 117, 16880-16890); here each member has its own mixture.
    It takes some 40 % fewer requests than the two arms' intervals side by side. By interpolation:
    the level is met within a percent of itself.
    """
    return _most_apart(challenger, champion, levels.lower), -_most_apart(champion, challenger, levels.upper)


def _most_apart(one: Counts, other: Counts, level: float) -> Values:
    """The largest d with evidence against p <= q + d, whatever the other's rate q is."""
    ours, theirs = _grid(one), _grid(other)
    high = above(one.errors[..., None], one.n[..., None], ours, one.strength)
    low = below(other.errors[..., None], other.n[..., None], theirs, other.strength)
    most = _last_at_least(ours, np.minimum.accumulate(high, axis=-1), -math.log(level) - low)
    return _array(np.min(most - theirs, axis=-1))


def _last_at_least(places: Values, falling: Values, least: Values) -> Values:
    """Where it is still at least that: 0 if it nowhere is, infinity if it always is; (..., as many as `least`)."""
    rows = (row.reshape(-1, row.shape[-1]) for row in (places, falling, least))
    found = [np.interp(-bound, -fall, place, left=0.0) for place, fall, bound in zip(*rows, strict=True)]
    return np.where(least <= math.log(UNMOVED), np.inf, np.reshape(found, least.shape))


def _grid(arm: Counts) -> Values:
    """Rates from 0 to 1, close together where that of the arm is likely, (..., places).

    In arcsin sqrt p every rate is known equally well, to 1 / (2 sqrt n).
    """
    centre = np.arcsin(np.sqrt(arm.errors / np.maximum(arm.n, 1)))[..., None]
    near = centre + NEAR / (2 * np.sqrt(np.maximum(arm.n, 1)))[..., None]
    far = np.broadcast_to(FAR, (*arm.n.shape, FAR.size))
    return _array(
        np.square(np.sin(np.sort(np.concatenate((np.clip(near, 0, math.pi / 2), far), axis=-1), axis=-1)))
    )


# --- means ------------------------------------------------------------------------------------------------


def radius(n: Number, variance: Number, alpha: float, tuning: float) -> Values:
    """How far one end lies from the mean, (...,), in the numbers' unit; narrowest near n = `tuning`.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic
    confidence sequences", Ann. Stat. 52, 2613-2640: the one-sided form (appendix B). Asymptotic: it holds from
    samples on at which the central limit theorem does.
    """
    wish = -2 * math.log(2 * alpha)
    scale = _array(n) * (wish + math.log(wish + 1)) / tuning
    inside = np.log1p(np.sqrt(scale + 1) / (2 * alpha))
    return _array(np.sqrt(2 * (scale + 1) / scale * inside * variance / n))


def mean(of: Sample, levels: Levels, tuning: float) -> Interval:
    """Ends of the mean of independent numbers with a variance, (...,); asymptotic, see `radius`."""
    lower, upper = (radius(of.n, of.variance, level, tuning) for level in levels)
    return of.mean - lower, of.mean + upper


def means(challenger: Sample, champion: Sample, factor: float, levels: Levels, tuning: float) -> Interval:
    """Ends of m1 - factor x m0 of two independent samples, (...,); asymptotic, see `radius`.

    Two values of that estimate, an early and a late one, vary together as much as the late one varies: as the mean
    of one sequence does. So it is one, of n = v1 / variance of the estimate, however the arms grow (a ramp).
    """
    variance = challenger.variance / challenger.n + factor**2 * champion.variance / champion.n
    scale = np.maximum(challenger.variance, factor**2 * champion.variance)
    known = variance > 0
    n = np.where(known, scale, challenger.n) / np.where(known, variance, 1.0)
    return mean(Sample(n, challenger.mean - factor * champion.mean, scale), levels, tuning)


# --- quantiles --------------------------------------------------------------------------------------------


def bin_of(ms: ArrayLike) -> NDArray[np.int64]:
    """The bin of each latency, (...,); what took less than a microsecond counts as one."""
    return np.floor(np.log(np.maximum(ms, 1e-3)) / math.log(RATIO)).astype(np.int64)


def edge(place: NDArray[np.int64]) -> Values:
    """Lower edge of a bin, in milliseconds."""
    return _array(RATIO ** _array(place))


class Seen(NamedTuple):
    """A histogram, summed up."""

    first: int
    """Its lowest bin."""
    until: Values
    """How many lie below the lower edge of bin `first + i`, (..., bins + 1)."""
    n: Values
    """How many there are, (..., 1)."""
    strength: float

    @classmethod
    def of(cls, latencies: Latencies, arm: Arm = "challenger", grow: Number = 1.0) -> "Seen":
        """These latencies, or `grow` (...,) times as many in the same shares; at least one."""
        first, last = min(latencies.bins), max(latencies.bins)
        held = np.zeros(last - first + 2)
        for place, count in latencies.bins.items():
            held[place - first + 1] = count
        size = _array(grow)[..., None]
        return cls(first, np.cumsum(held) * size, held.sum() * size, STRENGTH[arm])

    def below(self, places: NDArray[np.int64]) -> Values:
        """How many lie below the lower edges of these bins, (..., places)."""
        return _array(self.until[..., np.clip(places - self.first, 0, self.until.shape[-1] - 1)])


class Steps(NamedTuple):
    """Two histograms, for the question whether a quantile of `one` is above that of `other` x RATIO ** steps.

    If it is not, and the other's quantile lies in bin b, then the one's lies in bin b + steps or below. So what
    speaks against it is what speaks against the best b: as in `difference`.
    """

    one: Seen
    other: Seen
    other_low: Values
    """Evidence that the other's quantile lies below bin `other.first + i`, (..., bins + 1)."""
    one_high: Values
    """Evidence that the one's quantile lies at or above the lower edge of bin `one.first + i`, (..., bins + 1)."""

    @classmethod
    def of(cls, one: Seen, other: Seen, p: float) -> "Steps":
        """Of the p-quantiles."""
        low = above(other.until, other.n, p, other.strength)
        return cls(one, other, low, below(one.until, one.n, p, one.strength))

    def evidence(self, steps: NDArray[np.int64]) -> Values:
        """Log evidence that it is above, (...,); falls with the steps (...,)."""
        return _array(self.each(steps).min(axis=-1))

    def each(self, steps: NDArray[np.int64]) -> Values:
        """The same, should the other's quantile lie in bin `other.first + i` or beyond all; (..., bins + 2)."""
        last = self.one.until.shape[-1] - 1
        places = np.arange(self.other.until.shape[-1]) + self.other.first + 1 - self.one.first
        high = np.take_along_axis(self.one_high, np.clip(places + steps[..., None], 0, last), axis=-1)
        beyond = self.other_low[..., -1:] + self.one_high[..., -1:]
        return np.concatenate((self.other_low + high, beyond), axis=-1)

    def most(self, against: float) -> NDArray[np.int64]:
        """The most steps by which the evidence is at least that, (...,); `fewest` where there are none."""
        low = np.full(self.one.n.shape[:-1], self.fewest)
        high = np.full(self.one.n.shape[:-1], -self.fewest + 2 * (self.one.first - self.other.first))
        while np.any(high - low > 1):
            middle = (low + high) // 2
            found = self.evidence(middle) >= against
            low, high = np.where(found, middle, low), np.where(found, high, middle)
        return low

    @property
    def fewest(self) -> int:
        """So few that all of one lies above all of the other."""
        return self.one.first - self.other.first - int(self.one.until.shape[-1] + self.other.until.shape[-1])


def quantile_ratio(challenger: Seen, champion: Seen, p: float, levels: Levels) -> Interval:
    """Ends of challenger's p-quantile / champion's, (...,), as powers of RATIO; 0 and infinity where unknown.

    Independent latencies; requests may be split between both in any way. Howard and Ramdas 2022, "Sequential
    estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28, 1704-1728,
    here with the beta-binomial boundary: whatever a quantile is, what lies below that one place comes at the rate
    p, so one sequence at p speaks about every place. Two arms are put together as in `difference`.
    """
    up, down = Steps.of(challenger, champion, p), Steps.of(champion, challenger, p)
    slower, faster = up.most(-math.log(levels.lower)), down.most(-math.log(levels.upper))
    lower = np.where(slower > up.fewest, edge(slower), 0.0)
    return lower, np.where(faster > down.fewest, edge(-faster), np.inf)
