"""Confidence sequences of one arm: what those of two arms are measured against."""

import math

import numpy as np
from scipy.special import betaln

from pipelines.rollout.evidence import Latencies
from pipelines.rollout.sequences import Interval, Number, Seen, Values, above, below, edge

JEFFREYS = (0.5, 0.5)
STEPS_OF_NEWTON = 52


def mixture(successes: Number, n: Number, prior: tuple[float, float] = JEFFREYS) -> Values:
    """Log likelihood of these successes where the rate is drawn from Beta(prior); (...,)."""
    a, b = prior
    s = np.asarray(successes)
    return np.asarray(betaln(a + s, b + np.asarray(n) - s) - betaln(a, b))


def bernoulli(successes: Number, n: Number, alpha: float, prior: tuple[float, float] = JEFFREYS) -> Interval:
    """Lower and upper end of the rate p of independent successes, (...,); both miss it with at most alpha.

    The beta-binomial mixture (Robbins 1970, Ann. Math. Stat. 41, 1397-1409; Howard, Ramdas, McAuliffe and Sekhon
    2021, Ann. Stat. 49, 1055-1080): all p with B(a + s, b + n - s) / B(a, b) / (p^s (1 - p)^(n - s)) < 1 / alpha.
    In t = log(p / (1 - p)) that is convex, above its lines -s t and (n - s) t: Newton's method from where
    these cross comes to the ends from outside, so that what it leaves open is too wide, not too narrow.
    """
    s = np.asarray(successes)
    f = np.asarray(n) - s
    room = mixture(s, s + f, prior) + math.log(alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        lower = np.where(s > 0, _rate(_newton(s, s + f, room, np.minimum(room / s, 0.0 * s + 700))), 0.0)
        upper = np.where(f > 0, 1 - _rate(_newton(f, s + f, room, np.minimum(room / f, 0.0 * f + 700))), 1.0)
    return lower, upper


def _newton(s: Values, n: Values, room: Values, start: Values) -> Values:
    """The smaller root of room - s t + n log(1 + e^t) = 0, from below."""
    t = start
    for _ in range(STEPS_OF_NEWTON):
        step = (room - s * t + n * np.logaddexp(0.0, t)) / (s - n * _rate(t))
        if not np.any(step > 1e-12 * np.abs(t)):
            break
        t = t + np.where(step > 0, step, 0.0)
    return t


def _rate(t: Values) -> Values:
    return np.asarray(1 / (1 + np.exp(-t)))


def quantile(latencies: Latencies, p: float, alpha: float) -> Interval:
    """Ends of the p-quantile in milliseconds: edges of bins, so that bins never make it too narrow; () each.

    Source: `quantile_ratio`.
    """
    seen, against = Seen.of(latencies), math.log(2 / alpha)
    places = np.arange(seen.first - 1, seen.first + seen.until.size + 1)
    too_low = below(seen.below(places + 1), seen.n, p, seen.strength) >= against
    too_high = above(seen.below(places), seen.n, p, seen.strength) >= against
    lower = edge(places[np.argmin(too_low)]) if too_low.any() else np.asarray(0.0)
    upper = edge(places[np.argmax(too_high)]) if too_high.any() else np.asarray(np.inf)
    return lower, upper
