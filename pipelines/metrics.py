"""Ready-made losses and metrics for use cases; each takes the outputs and the actual values, both (n,)."""

import numpy as np
from numpy.typing import NDArray

from pipelines.spec import Loss, Metric, Outputs

Values = NDArray[np.float64]


def squared_error(output: str) -> Loss:
    """(output - actual)² of one named output, in the target's unit squared."""

    def loss(outputs: Outputs, actual: Values) -> Values:
        return np.square(outputs[output] - actual)

    return loss


def log_loss(output: str) -> Loss:
    """Negative log likelihood of a probability, in nats; probabilities are clipped to [1e-15, 1 - 1e-15]."""

    def loss(outputs: Outputs, actual: Values) -> Values:
        probability = np.clip(outputs[output], 1e-15, 1 - 1e-15)
        return -(actual * np.log(probability) + (1 - actual) * np.log1p(-probability))

    return loss


def mean(loss: Loss) -> Metric:
    """The mean of a loss."""

    def metric(outputs: Outputs, actual: Values) -> float:
        return float(np.mean(loss(outputs, actual)))

    return metric


def rmse(output: str) -> Metric:
    """Root mean squared error, in the target's unit."""
    mean_squared = mean(squared_error(output))

    def metric(outputs: Outputs, actual: Values) -> float:
        return float(np.sqrt(mean_squared(outputs, actual)))

    return metric


def mae(output: str) -> Metric:
    """Mean absolute error, in the target's unit."""

    def metric(outputs: Outputs, actual: Values) -> float:
        return float(np.mean(np.abs(outputs[output] - actual)))

    return metric


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


def expected_calibration_error(probability: Values, happened: Values, bins: int = 10) -> float:
    """Mean distance between what was said and what happened, over equal-width bins weighted by their rows.

    Guo et al. (2017), "On calibration of modern neural networks", eq. 3. It is above 0 for a calibrated model
    too, the more so the fewer rows there are.
    """
    places = np.minimum((probability * bins).astype(np.intp), bins - 1)
    apart = np.bincount(places, probability - happened, minlength=bins)
    return float(np.abs(apart).sum() / len(probability))
