"""Ready-made losses and metrics for use cases; each takes the outputs and the actual values, both (n,).

A loss gives one number a row, (n,); a metric gives one number for all rows. The ready-made metrics are
functions of sums over rows, so the label clock keeps them up row by row, with their intervals; a plain
function `(outputs, actual) -> float` is a metric too, for the gate alone.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from types import CodeType

import numpy as np
from numpy.typing import NDArray

from pipelines.spec import Event, Loss, Metric, Outputs

Values = NDArray[np.float64]
Interval = tuple[float, float]
NOISE = 1e-6
"""Absolute difference below which answers are equal: float32 cannot say more."""
UNKNOWN: Interval = (float("nan"), float("nan"))
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

# --- losses: (n,) -----------------------------------------------------------------------------------------


def squared_error(output: str, event: Event | None = None) -> Loss:
    """(output - actual)² of one named output, in the target's unit squared; of a probability with `event`."""

    def loss(outputs: Outputs, actual: Values) -> Values:
        return np.square(outputs[output] - happened(actual, event))

    return loss


def absolute_error(output: str) -> Loss:
    """|output - actual|, in the target's unit."""

    def loss(outputs: Outputs, actual: Values) -> Values:
        return np.abs(outputs[output] - actual)

    return loss


def squared_log_error(output: str) -> Loss:
    """(log(1 + output) - log(1 + actual))²; not finite where one of them is below -1."""

    def loss(outputs: Outputs, actual: Values) -> Values:
        with np.errstate(invalid="ignore", divide="ignore"):
            difference: Values = np.log1p(outputs[output]) - np.log1p(actual)
        return np.square(difference)

    return loss


def log_loss(output: str, event: Event | None = None) -> Loss:
    """Negative log likelihood of a probability, in nats; probabilities are clipped to [1e-15, 1 - 1e-15]."""

    def loss(outputs: Outputs, actual: Values) -> Values:
        probability = np.clip(outputs[output], 1e-15, 1 - 1e-15)
        yes = happened(actual, event)
        return -(yes * np.log(probability) + (1 - yes) * np.log1p(-probability))

    return loss


def happened(actual: Values, event: Event | None) -> Values:
    """What an output is the probability of: 0 or 1 a row; without an event the actual values say so."""
    return actual if event is None else np.asarray(event(actual), np.float64)


# --- answers that should be the same -----------------------------------------------------------------------


def apart(answered: Values, expected: Values) -> float:
    """Largest difference of answers (n,), relative to the answer, or to the mean one where that is larger.

    A small answer is the sum of large terms that take each other away, and float32 rounds it as it rounds those.
    """
    difference = np.maximum(np.abs(answered - expected) - NOISE, 0.0)
    typical = np.maximum(np.abs(expected), np.abs(expected).mean())
    return float(np.max(np.divide(difference, typical, out=difference.copy(), where=typical > 0)))


# --- metrics: one number ----------------------------------------------------------------------------------


class Additive(ABC):
    """A metric that depends on its rows by sums alone: k terms a row, added up over any rows."""

    @abstractmethod
    def terms(self, outputs: Outputs, actual: Values) -> Values:
        """What each row adds, (n, k)."""

    @abstractmethod
    def value(self, totals: Values, n: float) -> float:
        """The metric of n rows whose terms add up to `totals` (k,); NaN where it is not defined."""

    @abstractmethod
    def interval(self, totals: Values, n: float, confidence: float) -> Interval:
        """Lower and upper end of its two-sided interval; NaN where the rows are too few."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Changes when sums under the old definition must not be added to those under the new one."""

    def __call__(self, outputs: Outputs, actual: Values) -> float:
        """The metric of these rows."""
        return self.value(self.terms(outputs, actual).sum(axis=0), len(actual))


@dataclass(frozen=True)
class Mean(Additive):
    """The mean of a loss, or its root; k = 2: the loss and its square."""

    loss: Loss
    root: bool = False

    def terms(self, outputs: Outputs, actual: Values) -> Values:
        """The loss and its square."""
        losses = self.loss(outputs, actual)
        return np.stack([losses, np.square(losses)], axis=1)

    def value(self, totals: Values, n: float) -> float:
        """In the unit of the loss, or of its root."""
        mean = _share(totals[0], n)
        return float(np.sqrt(max(mean, 0.0))) if self.root and np.isfinite(mean) else mean

    def interval(self, totals: Values, n: float, confidence: float) -> Interval:
        """The central limit theorem; for a root by the delta method (Oehlert 1992, Am. Stat. 46, 27-29).

        The error of sqrt(m) is that of m divided by 2 sqrt(m). At least two rows.
        """
        if n < 2:
            return UNKNOWN
        mean = totals[0] / n
        error = np.sqrt(max(totals[1] / n - mean**2, 0.0) / (n - 1))
        value = self.value(totals, n)
        if self.root and value > 0:
            error /= 2 * value
        return _around(value, error, confidence, least=0.0 if self.root else -np.inf)

    @property
    def identity(self) -> str:
        """By the loss's code."""
        return f"mean {self.root} {identity(self.loss)}"

    def __call__(self, outputs: Outputs, actual: Values) -> float:
        """Without the squares, which only the interval needs."""
        return self.value(np.array([self.loss(outputs, actual).sum(), 0.0]), len(actual))


@dataclass(frozen=True)
class CalibrationError(Additive):
    """Expected calibration error; k = 3 bins + 1: rows, probability, events of each bin, and (p - y)²."""

    output: str
    event: Event | None
    bins: int

    def terms(self, outputs: Outputs, actual: Values) -> Values:
        """One-hot by bin."""
        probability, yes = outputs[self.output], happened(actual, self.event)
        place = _bin(probability, self.bins)
        rows = np.zeros((len(probability), 3 * self.bins + 1))
        each = np.arange(len(probability))
        rows[each, place] = 1.0
        rows[each, self.bins + place] = probability
        rows[each, 2 * self.bins + place] = yes
        rows[:, -1] = np.where(np.isfinite(probability), np.square(probability - yes), np.nan)
        return rows

    def value(self, totals: Values, n: float) -> float:
        """Between 0 and 1. On few rows it is above 0 also for a calibrated model."""
        _, probability, events = totals[:-1].reshape(3, self.bins)
        return _share(float(np.abs(probability - events).sum()), n)

    def interval(self, totals: Values, n: float, confidence: float) -> Interval:
        """The delta method (Oehlert 1992) with each bin's sign taken as known.

        The error is then the mean of ±(p - y), whose variance is mean (p - y)² - ECE². Where a bin is
        calibrated its sign is chance, and the interval lies too high, as the error itself does.
        """
        if n < 2:
            return UNKNOWN
        value = self.value(totals, n)
        error = np.sqrt(max(totals[-1] / n - value**2, 0.0) / (n - 1))
        return _around(value, error, confidence, least=0.0, most=1.0)

    @property
    def identity(self) -> str:
        """By output, event and bins."""
        return f"ece {self.output} {identity(self.event)} {self.bins}"

    def __call__(self, outputs: Outputs, actual: Values) -> float:
        """Without one-hot terms."""
        return expected_calibration_error(outputs[self.output], happened(actual, self.event), self.bins)


@dataclass(frozen=True)
class RankedRight(Additive):
    """Area under the ROC curve; k = 2 bins: histograms of the scores of events and of the others.

    Called with rows it is exact. From histograms, pairs within one bin count half, as ties do; the error is
    at most (sum over bins of events x others) / (2 x all events x all others), and the interval is wider by it.
    """

    output: str
    event: Event | None
    bins: int

    def terms(self, outputs: Outputs, actual: Values) -> Values:
        """One-hot by event and bin."""
        score, yes = outputs[self.output], happened(actual, self.event)
        rows = np.zeros((len(score), 2 * self.bins))
        rows[np.arange(len(score)), _bin(score, self.bins) + self.bins * (yes < 0.5)] = 1.0
        rows[~np.isfinite(score) | ~np.isfinite(yes)] = np.nan
        return rows

    def value(self, totals: Values, n: float) -> float:
        """Between 0 and 1; NaN without an event or without its opposite."""
        events, others = totals.reshape(2, self.bins)
        below = np.cumsum(others) - others / 2
        return _share(float(events @ below), float(events.sum() * others.sum()))

    def interval(self, totals: Values, n: float, confidence: float) -> Interval:
        """Hanley and McNeil (1982), Radiology 143, 29-36, wider by the error of the bins."""
        events, others = totals.reshape(2, self.bins)
        positives, negatives = float(events.sum()), float(others.sum())
        if min(positives, negatives) < 1:
            return UNKNOWN
        area, pairs = self.value(totals, n), positives * negatives
        first, second = area / (2 - area), 2 * area**2 / (1 + area)
        spread = (positives - 1) * (first - area**2) + (negatives - 1) * (second - area**2)
        error = np.sqrt(max(area * (1 - area) + spread, 0.0) / pairs)
        lower, upper = _around(area, error, confidence)
        within = float(events @ others) / (2 * pairs)
        return max(0.0, lower - within), min(1.0, upper + within)

    @property
    def identity(self) -> str:
        """By output, event and bins."""
        return f"auc {self.output} {identity(self.event)} {self.bins}"

    def __call__(self, outputs: Outputs, actual: Values) -> float:
        """Exact: the share of pairs that are ranked right (Mann and Whitney 1947), ties count half."""
        score, yes = outputs[self.output], happened(actual, self.event) > 0.5
        others = np.sort(score[~yes])
        below = np.searchsorted(others, score[yes], "left") + np.searchsorted(others, score[yes], "right")
        return _share(float(below.sum()) / 2, float(yes.sum() * len(others)))


def mean(loss: Loss) -> Additive:
    """The mean of a loss."""
    return Mean(loss)


def rmse(output: str) -> Additive:
    """Root mean squared error, in the target's unit."""
    return Mean(squared_error(output), root=True)


def mae(output: str) -> Additive:
    """Mean absolute error, in the target's unit."""
    return Mean(absolute_error(output))


def rmsle(output: str) -> Additive:
    """Root mean squared logarithmic error."""
    return Mean(squared_log_error(output), root=True)


def mean_log_loss(output: str, event: Event | None = None) -> Additive:
    """Mean negative log likelihood of a probability, in nats."""
    return Mean(log_loss(output, event))


def brier(output: str, event: Event | None = None) -> Additive:
    """Mean squared error of a probability (Brier 1950)."""
    return Mean(squared_error(output, event))


def ece(output: str, event: Event | None = None, bins: int = 10) -> Additive:
    """Expected calibration error of a probability, over equal-width bins (Naeini et al. 2015)."""
    return CalibrationError(output, event, bins)


def auc(output: str, event: Event | None = None, bins: int = 200) -> Additive:
    """Area under the ROC curve of a probability."""
    return RankedRight(output, event, bins)


def expected_calibration_error(probability: Values, yes: Values, bins: int) -> float:
    """Weighted mean over equal-width bins of |mean probability - share of events|; both (n,)."""
    place = _bin(probability, bins)
    gaps = np.bincount(place, weights=probability - yes, minlength=bins)
    return _share(float(np.abs(gaps).sum()), len(probability))


def identity(function: object) -> str:
    """What a function does, by its code, its constants and what it closes over; the same in every process."""
    code = getattr(function, "__code__", None)
    if code is None:
        return _plain(function)
    held = [identity(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    return f"{_told(code)} {held}"


def _told(code: CodeType) -> str:
    constants = [_told(each) if isinstance(each, CodeType) else _plain(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _plain(value: object) -> str:
    """Its repr, without what differs from process to process: addresses and the order of sets."""
    told = str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
    return _ADDRESS.sub("", told)


def _bin(probability: Values, bins: int) -> NDArray[np.intp]:
    known = np.nan_to_num(probability, nan=0.0, posinf=1.0, neginf=0.0)
    return np.clip((known * bins).astype(np.intp), 0, bins - 1)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _around(
    value: float, error: float, confidence: float, least: float = -np.inf, most: float = np.inf
) -> Interval:
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return max(least, float(value - reach)), min(most, float(value + reach))


def paired_interval(
    metric: Metric,
    candidate: Outputs,
    champion: Outputs,
    actual: Values,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float, float]:
    """Difference metric(candidate) - metric(champion) with its paired percentile bootstrap interval.

    The same rows are drawn for both in each resample (Efron and Tibshirani 1993, ch. 13), so what makes
    a row hard for both cancels. Returns (difference, lower, upper).
    """
    random = np.random.default_rng(seed)

    def of(outputs: Outputs, rows: NDArray[np.intp]) -> float:
        return metric({name: values[rows] for name, values in outputs.items()}, actual[rows])

    draws = (random.integers(0, len(actual), len(actual)) for _ in range(resamples))
    differences = [of(candidate, rows) - of(champion, rows) for rows in draws]
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(differences, [tail, 1 - tail])
    return metric(candidate, actual) - metric(champion, actual), float(lower), float(upper)
