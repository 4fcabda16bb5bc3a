"""Losses, metrics and the paired interval."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

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


# --- what the label clock keeps up row by row ------------------------------------------------------------


def draw_is_one(actual):
    return (actual == 1).astype(float)


TRACKED = {
    "rmse": metrics.rmse("x"),
    "mae": metrics.mae("x"),
    "rmsle": metrics.rmsle("x"),
    "mean_log_loss": metrics.mean_log_loss("p"),
    "brier": metrics.brier("p", draw_is_one),
    "ece": metrics.ece("p", draw_is_one, bins=7),
    "auc": metrics.auc("p", draw_is_one),
}
SEEDS = st.integers(0, 10_000)


def world(seed, n=400):
    random = np.random.default_rng(seed)
    probability = random.random(n)
    actual = (random.random(n) < probability).astype(float)
    return {"x": random.gamma(2.0, 3.0, n), "p": probability}, actual


@pytest.mark.parametrize("name", TRACKED)
@given(seed=SEEDS, n=st.integers(1, 60), parts=st.integers(1, 5))
def test_a_metric_of_sums_is_the_metric_of_the_rows_whatever_they_are_split_into(name, seed, n, parts):
    outputs, actual = world(seed, n)
    metric = TRACKED[name]
    terms = metric.terms(outputs, actual)
    totals = sum(part.sum(axis=0) for part in np.array_split(terms, parts))
    kept, whole = metric.value(totals, n), metric(outputs, actual)
    if math.isnan(whole):
        assert math.isnan(kept)
        return
    events, others = totals.reshape(2, -1) if name == "auc" else (np.zeros(1), np.ones(1))
    within = float(events @ others) / max(1.0, 2 * float(events.sum() * others.sum()))
    assert kept == pytest.approx(whole, rel=1e-9, abs=within + 1e-9)
    lower, upper = metric.interval(totals, n, 0.95)
    assert math.isnan(lower) or lower <= kept <= upper


def test_the_metrics_are_those_of_scikit_learn():
    outputs, actual = world(3)
    assert TRACKED["rmse"](outputs, actual) == pytest.approx(
        reference.root_mean_squared_error(actual, outputs["x"])
    )
    assert TRACKED["rmsle"](outputs, actual) == pytest.approx(
        reference.root_mean_squared_log_error(actual, outputs["x"])
    )
    assert TRACKED["mean_log_loss"](outputs, actual) == pytest.approx(reference.log_loss(actual, outputs["p"]))
    assert TRACKED["brier"](outputs, actual) == pytest.approx(reference.brier_score_loss(actual, outputs["p"]))
    assert TRACKED["auc"](outputs, actual) == pytest.approx(reference.roc_auc_score(actual, outputs["p"]))


def test_the_calibration_error_weighs_each_bin_by_its_rows():
    probability, yes = np.array([0.1, 0.1, 0.1, 1.0]), np.array([0.0, 0.0, 1.0, 0.0])
    expected = 0.75 * abs(0.1 - 1 / 3) + 0.25 * 1.0
    assert metrics.expected_calibration_error(probability, yes, 10) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "least"), [("rmse", 0.9), ("mae", 0.9), ("brier", 0.91), ("auc", 0.91)])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(name, least):
    metric = TRACKED[name]
    truth = metric(*world(99_999, 200_000))
    held = 0
    for seed in range(300):
        outputs, actual = world(seed)
        lower, upper = metric.interval(metric.terms(outputs, actual).sum(axis=0), len(actual), 0.95)
        held += lower <= truth <= upper
    assert least <= held / 300 <= 0.99


def test_too_few_rows_have_no_interval():
    outputs, actual = world(1, 1)
    for metric in TRACKED.values():
        assert math.isnan(metric.interval(metric.terms(outputs, actual).sum(axis=0), 1, 0.95)[0])


def test_a_row_that_has_no_metric_says_so():
    outputs, actual = {"x": np.array([np.nan]), "p": np.array([np.nan])}, np.array([1.0])
    for metric in TRACKED.values():
        assert not np.isfinite(metric.terms(outputs, actual)).all()


def test_an_identity_changes_with_the_definition_and_with_nothing_else():
    told = {metric.identity for metric in TRACKED.values()}
    assert len(told) == len(TRACKED)
    assert (
        metrics.ece("p", lambda actual: actual > 1).identity
        != metrics.ece("p", lambda actual: actual > 2).identity
    )
    code = "from pipelines import metrics; print(metrics.brier('p', lambda y: y in {'a', 'b', 'c'}).identity)"
    both = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(both) == 1


def test_answers_are_apart_by_their_own_size_and_small_ones_by_the_typical_size():
    expected = np.array([0.5, 100.0, 199.5])
    assert metrics.apart(expected, expected) == 0
    assert metrics.apart(expected + np.array([0.01, 0, 0]), expected) == pytest.approx(1e-4, rel=1e-3)
    assert metrics.apart(expected + np.array([0, 0, 0.0399]), expected) == pytest.approx(2e-4, rel=1e-3)
    assert np.isnan(metrics.apart(np.array([np.nan, 1.0]), np.ones(2)))
    assert metrics.apart(np.array([0.0, 3.0]), np.zeros(2)) == pytest.approx(3)
