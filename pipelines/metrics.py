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
