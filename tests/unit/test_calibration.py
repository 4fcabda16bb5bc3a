"""Bases, calibrators and the band of a calibrated model."""

import numpy as np
import pytest

from pipelines import calibration
from pipelines.calibration import apply, band, finish, from_log_odds, log_odds
from pipelines.metrics import expected_calibration_error
from pipelines.records import Calibrator, Part


def part(**given):
    return Part(name="p", booster="", onnx="", **{"kind": "classifier", **given})


def test_log_odds_are_finite_and_come_back():
    said = np.array([0.0, 1e-9, 0.2, 0.5, 0.999, 1.0])
    assert np.isfinite(log_odds(said)).all()
    assert np.allclose(from_log_odds(log_odds(said)), said, atol=2 * calibration.CERTAIN)


def test_a_classifier_adds_its_trees_to_the_log_odds_of_its_base():
    matrix = np.array([[9.0, log_odds(np.array(0.7))]], np.float32)
    nothing_to_add = finish(part(base=1), np.array([0.5]), matrix)
    assert nothing_to_add == pytest.approx(0.7, abs=1e-6)
    more = finish(part(base=1), np.array([0.6]), matrix)
    assert log_odds(more) == pytest.approx(log_odds(np.array([0.7])) + log_odds(np.array([0.6])), abs=1e-5)


def test_a_regressor_adds_its_trees_to_the_value_of_its_base():
    assert finish(part(kind="regressor", base=0), np.array([2.0]), np.array([[40.0]], np.float32)) == [42.0]


def test_a_temperature_of_one_changes_nothing_and_above_it_calms():
    said = np.array([0.1, 0.5, 0.95])
    assert np.allclose(apply(Calibrator(kind="temperature"), said), said)
    calm = apply(Calibrator(kind="temperature", slope=0.5), said)
    assert (np.abs(calm - 0.5) <= np.abs(said - 0.5)).all()


def test_an_isotonic_calibrator_goes_straight_between_its_corners_and_stays_at_its_ends():
    steps = Calibrator(kind="isotonic", x=(0.2, 0.4), y=(0.1, 0.5))
    assert apply(steps, np.array([0.0, 0.3, 0.9])) == pytest.approx([0.1, 0.3, 0.5])


@pytest.mark.parametrize("n", [200, 2000])
def test_a_calibrated_model_lies_within_its_band_and_a_bold_one_above(n):
    random = np.random.default_rng(n)
    inside = outside = 0
    for seed in range(12):
        true = random.uniform(0.05, 0.95, n)
        happened = (random.random(n) < true).astype(float)
        bold = from_log_odds(2.5 * log_odds(true))
        inside += expected_calibration_error(true, happened, 10) <= band(true, 10, 0.99, seed)
        outside += expected_calibration_error(bold, happened, 10) > band(bold, 10, 0.99, seed)
    assert inside >= 10
    assert outside >= (8 if n == 200 else 12)
