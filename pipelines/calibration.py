"""Probabilities that mean what they say: mending them with a few numbers, and telling how far off they are."""

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import expected_calibration_error
from pipelines.records import Calibrator, Part

Values = NDArray[np.float64]
CERTAIN = 1e-7
"""Probabilities nearer to 0 or 1 are taken as this: float32 says no more."""
DRAWS = 1000


def log_odds(probability: Values) -> Values:
    """ln(p / (1 - p)), finite."""
    inside = np.clip(probability, CERTAIN, 1 - CERTAIN)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def from_log_odds(margin: Values) -> Values:
    """The probability of a margin."""
    return np.asarray(1 / (1 + np.exp(-margin)))


def finish(part: Part, raw: Values, matrix: NDArray[np.float32]) -> Values:
    """What a part answers, of what its trees say alone: its base is added, its calibrator applied; (n,)."""
    if part.base is not None:
        base = matrix[:, part.base].astype(np.float64)
        raw = raw + base if part.kind == "regressor" else from_log_odds(log_odds(raw) + base)
    return raw if part.calibrator is None else apply(part.calibrator, raw)


def apply(calibrator: Calibrator, probability: Values) -> Values:
    """The calibrated probability, (n,).

    Sigmoid and temperature: a line through the log odds (Platt 1999; Guo et al. 2017, "On calibration of
    modern neural networks"); isotonic: straight lines between steps (Zadrozny and Elkan 2002).
    """
    if calibrator.kind == "isotonic":
        return np.interp(probability, calibrator.x, calibrator.y)
    return from_log_odds(calibrator.slope * log_odds(probability) + calibrator.intercept)


def band(probability: Values, bins: int, confidence: float, seed: int) -> float:
    """What expected calibration error a calibrated model of these very probabilities stays below.

    The error is never 0 on few rows: outcomes are drawn from the probabilities themselves (the consistency
    resampling of Broecker and Smith 2007, "Increasing the reliability of reliability diagrams").
    """
    random = np.random.default_rng(seed)
    draws = (random.random(len(probability)) < probability for _ in range(DRAWS))
    errors = [expected_calibration_error(probability, drawn.astype(np.float64), bins) for drawn in draws]
    return float(np.quantile(errors, confidence))
