"""Losses, metrics and the paired interval."""

import numpy as np
import pytest

from pipelines import metrics

ACTUAL = np.array([1.0, 2.0, 4.0])
OUTPUT = {"x": np.array([2.0, 2.0, 1.0])}


def test_errors_are_those_of_the_formula():
    assert metrics.squared_error("x")(OUTPUT, ACTUAL).tolist() == [1, 0, 9]
    assert metrics.rmse("x")(OUTPUT, ACTUAL) == pytest.approx((10 / 3) ** 0.5)
    assert metrics.mae("x")(OUTPUT, ACTUAL) == pytest.approx(4 / 3)
    certain = {"x": np.array([1.0, 0.0])}
    assert metrics.log_loss("x")(certain, np.array([1.0, 1.0])).tolist() == pytest.approx([0, 34.538776], abs=1e-5)


def test_the_paired_interval_covers_a_known_difference_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        hard = random.normal(0, 5, 300)
        champion = {"x": hard + random.normal(0, 1, 300)}
        candidate = {"x": champion["x"] + 0.1}
        _, lower, upper = metrics.paired_interval(
            metrics.mean(lambda out, actual: out["x"] - actual), candidate, champion, hard,
            confidence=0.9, resamples=200, seed=seed,
        )  # fmt: skip
        covered += lower - 1e-9 <= 0.1 <= upper + 1e-9
    assert covered == 200


def test_the_paired_interval_of_a_noisy_difference_has_its_level():
    random = np.random.default_rng(2)
    missed = 0
    for seed in range(300):
        actual = np.zeros(200)
        champion, candidate = {"x": random.normal(0, 1, 200)}, {"x": random.normal(0, 1, 200)}
        mean = metrics.mean(lambda out, _: out["x"])
        _, lower, upper = metrics.paired_interval(
            mean, candidate, champion, actual, confidence=0.9, resamples=300, seed=seed
        )
        missed += not lower <= 0 <= upper
    assert 0.04 < missed / 300 < 0.17
