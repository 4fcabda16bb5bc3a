"""What a cell keeps of its labelled rows: one vector of sums, and how it is read.

Order: scored rows, their losses, their squares; labels by lag; then for each tracked metric its rows and its
terms. A row where a metric's terms are not finite is left out of that metric, and not counted in it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.metrics import Additive
from pipelines.spec import Frozen, UseCase

Values = NDArray[np.float64]
LAGS = 101
"""Lags in seconds by powers of 2^(1/4), the first is up to 1 s, the last is over a year: right to 9 %."""
CONFIDENCE = 0.95
_REACH = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class Figure(Frozen):
    """A number with its interval; None where the rows are too few for one."""

    value: float
    lower: float | None
    upper: float | None
    n: int


class Scored(NamedTuple):
    """Labelled rows."""

    outputs: Sequence[Mapping[str, float]]
    actual: Values
    lag: Values
    """Seconds from the event to the observation."""


class Sums:
    """The vector of one use case."""

    def __init__(self, use_case: UseCase) -> None:
        self._use_case = use_case
        self._loss = metrics.mean(use_case.loss)
        self.tracked = {name: metric for name, metric in use_case.metrics.items() if isinstance(metric, Additive)}
        self.untracked = tuple(name for name in use_case.metrics if name not in self.tracked)
        """Metrics that are no sums over rows: for the gate alone."""
        widths = [3, LAGS, *(1 + width for width in map(_width, self.tracked.values()))]
        self._starts = np.cumsum([0, *widths]).tolist()
        self.width: int = self._starts[-1]

    @property
    def definition(self) -> str:
        """Digest of all that decides how a row is counted."""
        use_case = self._use_case
        told = {
            "loss": metrics.identity(use_case.loss),
            "metrics": {name: metric.identity for name, metric in self.tracked.items()},
            "slices": [each.model_dump(mode="json") for each in use_case.slices],
            "horizon": use_case.horizon.total_seconds(),
            "lags": LAGS,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def rows(self, scored: Scored) -> Values:
        """What each row adds, (n, width). Rows whose outputs have the same names are worked out at once."""
        told = np.zeros((len(scored.actual), self.width))
        told[np.arange(len(told)), 3 + _lag_bin(scored.lag)] = 1.0
        alike: dict[tuple[str, ...], list[int]] = {}
        for place, outputs in enumerate(scored.outputs):
            alike.setdefault(tuple(sorted(outputs)), []).append(place)
        for names, places in alike.items():
            columns = {name: np.array([scored.outputs[at][name] for at in places], np.float64) for name in names}
            with np.errstate(all="ignore"):  # what is not finite is left out
                self._score(told, places, columns, scored.actual[places])
        return told

    def _score(self, told: Values, places: list[int], outputs: Mapping[str, Values], actual: Values) -> None:
        told[places, 0:3] = _counted(self._loss, outputs, actual)
        for start, metric in zip(self._starts[2:], self.tracked.values(), strict=False):
            terms = _counted(metric, outputs, actual)
            told[places, start : start + terms.shape[1]] = terms

    def loss(self, sums: Values) -> Figure | None:
        """Mean loss."""
        return _figure(self._loss, sums[:3])

    def metrics(self, sums: Values) -> dict[str, Figure | None]:
        """The tracked metrics; None where there are no rows for one."""
        parts = zip(self._starts[2:-1], self._starts[3:], strict=True)
        return {
            name: _figure(metric, sums[start:end])
            for (name, metric), (start, end) in zip(self.tracked.items(), parts, strict=True)
        }

    def lag(self, sums: Values, share: float) -> float | None:
        """Seconds within which that share of the labels came; the middle of its bin."""
        bins = sums[3 : 3 + LAGS]
        if bins.sum() < 1:
            return None
        place = int(np.searchsorted(np.cumsum(bins), share * bins.sum()))
        return float(2 ** ((place - 0.5) / 4)) if place else 0.5


def losses(rows: Values) -> list[float | None]:
    """The loss of each row of a vector; None where it is not finite."""
    return [loss if known else None for known, loss in rows[:, :2].tolist()]


def _width(metric: Additive) -> int:
    return len(metric.terms(_NoOutputs(), np.zeros(0)).T)


class _NoOutputs(dict[str, Values]):
    """Every output of no rows."""

    def __missing__(self, name: str) -> Values:
        return np.zeros(0)


def _counted(metric: Additive, outputs: Mapping[str, Values], actual: Values) -> Values:
    """A one and the terms of each row; zeros where one of them is not finite or the output is not there."""
    try:
        terms = metric.terms(outputs, actual)
    except KeyError:  # an older version answered under other names
        return np.zeros((len(actual), 1 + _width(metric)))
    told = np.concatenate([np.ones((len(actual), 1)), terms], axis=1)
    told[~np.isfinite(told).all(axis=1)] = 0.0
    return told


def _figure(metric: Additive, sums: Values) -> Figure | None:
    n = round(float(sums[0]))
    value = metric.value(sums[1:], n) if n > 0 else float("nan")
    if not np.isfinite(value):
        return None
    lower, upper = (end if np.isfinite(end) else None for end in metric.interval(sums[1:], n, CONFIDENCE))
    return Figure(value=value, lower=lower, upper=upper, n=n)


def _lag_bin(lag: Values) -> NDArray[np.intp]:
    place = np.ceil(4 * np.log2(np.maximum(lag, 1.0)))
    return np.asarray(np.clip(place, 0, LAGS - 1), np.intp)


def share(part: int, whole: int) -> Figure | None:
    """A share with its interval by Wilson (1927), J. Am. Stat. Assoc. 22, 209-212."""
    if whole == 0:
        return None
    reach = _REACH**2 / whole
    middle = (part / whole + reach / 2) / (1 + reach)
    half = _REACH / (1 + reach) * float(np.sqrt(part * (whole - part) / whole**3 + reach / (4 * whole)))
    lower, upper = max(0.0, middle - half), min(1.0, middle + half)
    return Figure(value=part / whole, lower=lower, upper=upper, n=whole)
