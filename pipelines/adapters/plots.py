"""The pictures of a training run, drawn without a display."""

from pathlib import Path

import numpy as np
import xgboost
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binom

from pipelines.metrics import expected_calibration_error
from pipelines.records import Manifest, Part
from pipelines.spec import Calibrated, Outputs, UseCase

MOST_POINTS = 4000
LETTER = 0.085
"""Inches that a letter of a feature's name takes."""


def draw(
    use_case: UseCase, manifest: Manifest, folder: Path, outputs: Outputs, actual: NDArray[np.float64]
) -> None:
    """Write `held_out_<output>.png`, `reliability_<output>.png` and `importance_<part>.png` into `plots/`.

    Residuals are drawn where a part learns what a label reports, reliability of probabilities that must be
    calibrated.
    """
    plots = folder / "plots"
    plots.mkdir()
    probabilities = {each.output for each in use_case.calibrated}
    if any(part.kind == "regressor" and part.target == use_case.target for part in use_case.parts):
        for name in outputs.keys() - probabilities:
            _held_out(use_case, name, outputs[name], actual).savefig(plots / f"held_out_{name}.png", dpi=110)
    for each in use_case.calibrated:
        figure = _reliability(each, outputs[each.output], each.event(actual))
        figure.savefig(plots / f"reliability_{each.output}.png", dpi=110)
    for part in manifest.parts:
        figure = _importance(manifest, part, folder / "release" / part.booster)
        figure.savefig(plots / f"importance_{part.name}.png", dpi=110)


def _figure(width: float, height: float, left: float = 0.9) -> Figure:
    """Sizes and the left margin in inches; to measure each word would take as long as to draw it."""
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=left / width, right=1 - 0.25 / width, bottom=0.6 / height, top=1 - 0.45 / height, wspace=0.25
    )
    return figure


def _entitle(axes: Axes, title: str) -> None:
    """Where a title stands anyway; to look for that place measures every word of the axes once more."""
    axes.set_title(title, y=1)


def _held_out(use_case: UseCase, name: str, values: NDArray[np.float64], actual: NDArray[np.float64]) -> Figure:
    """Predicted against actual, and the residuals beside it."""
    figure = _figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    shown = slice(0, MOST_POINTS)
    left.scatter(actual[shown], values[shown], s=5, alpha=0.35)
    ends = [float(np.min(actual)), float(np.max(actual))]
    left.plot(ends, ends, color="black", linewidth=0.8)
    left.set(xlabel=f"actual {use_case.target_unit}", ylabel=f"{name} {use_case.target_unit}")
    _entitle(left, f"held out, n = {len(actual):,}")
    right.hist(values - actual, bins=60, histtype="stepfilled")  # one shape instead of sixty
    right.set(xlabel=f"{name} - actual {use_case.target_unit}", ylabel="rows")
    _entitle(right, "residuals")
    return figure


def _reliability(asked: Calibrated, said: NDArray[np.float64], happened: NDArray[np.float64]) -> Figure:
    """What was said against how often it happened, with the band of a calibrated model in each bin."""
    places = np.minimum((said * asked.bins).astype(int), asked.bins - 1)
    counts = np.bincount(places, minlength=asked.bins)
    filled = counts > 0
    mean = np.bincount(places, said, asked.bins)[filled] / counts[filled]
    share = np.bincount(places, happened, asked.bins)[filled] / counts[filled]
    lower, upper = binom.interval(asked.confidence, counts[filled], mean) / counts[filled]
    figure = _figure(6, 6.4)
    curve, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    curve.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    curve.fill_between(
        mean, lower, upper, alpha=0.25, label=f"a calibrated model, {asked.confidence:.0%} of draws"
    )
    curve.plot(mean, share, marker="o", label="held out")
    error = expected_calibration_error(said, happened, asked.bins)
    curve.set(ylabel="how often it happened")
    _entitle(curve, f"{asked.output}: n = {len(said):,}, calibration error {error:.3f}")
    curve.legend(loc="upper left")
    below.bar(mean, counts[filled], width=0.6 / asked.bins)
    below.set(xlabel=f"what was said: {asked.output}", ylabel="rows", xlim=(0, 1))
    return figure


def _importance(manifest: Manifest, part: Part, file: Path) -> Figure:
    """Share of the total gain by feature."""
    gain = xgboost.Booster(model_file=file).get_score(importance_type="total_gain")
    shares = np.array([np.sum(gain.get(f"f{place}", 0.0)) for place in range(len(manifest.feature_names))])
    shares = shares / max(shares.sum(), 1e-12)
    order = np.argsort(shares)
    words = LETTER * max(map(len, manifest.feature_names)) + 0.3
    figure = _figure(words + 5, 0.35 * len(order) + 1.2, left=words)
    axes = figure.subplots()
    axes.barh([manifest.feature_names[place] for place in order], shares[order])
    axes.set(xlabel="share of the total gain")
    _entitle(axes, f"importance: {part.name}")
    return figure
