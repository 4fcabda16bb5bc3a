"""The pictures of a training run, drawn without a display."""

from pathlib import Path

import numpy as np
import xgboost
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.records import Manifest, Part
from pipelines.spec import Outputs, UseCase

MOST_POINTS = 4000


def draw(
    use_case: UseCase, manifest: Manifest, folder: Path, outputs: Outputs, actual: NDArray[np.float64]
) -> None:
    """Write `plots/held_out_<output>.png` and `plots/importance_<part>.png`."""
    plots = folder / "plots"
    plots.mkdir()
    for name, values in outputs.items():
        _held_out(use_case, name, values, actual).savefig(plots / f"held_out_{name}.png", dpi=110)
    for part in manifest.parts:
        figure = _importance(manifest, part, folder / "release" / part.booster)
        figure.savefig(plots / f"importance_{part.name}.png", dpi=110)


def _held_out(use_case: UseCase, name: str, values: NDArray[np.float64], actual: NDArray[np.float64]) -> Figure:
    """Predicted against actual, and the residuals beside it."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = slice(0, MOST_POINTS)
    left.scatter(actual[shown], values[shown], s=5, alpha=0.35)
    ends = [float(np.min(actual)), float(np.max(actual))]
    left.plot(ends, ends, color="black", linewidth=0.8)
    left.set(xlabel=f"actual {use_case.target_unit}", ylabel=f"{name} {use_case.target_unit}")
    left.set_title(f"held out, n = {len(actual):,}")
    right.hist(values - actual, bins=60)
    right.set(xlabel=f"{name} - actual {use_case.target_unit}", ylabel="rows", title="residuals")
    return figure


def _importance(manifest: Manifest, part: Part, file: Path) -> Figure:
    """Share of the total gain by feature."""
    gain = xgboost.Booster(model_file=file).get_score(importance_type="total_gain")
    shares = np.array([np.sum(gain.get(f"f{place}", 0.0)) for place in range(len(manifest.feature_names))])
    shares = shares / max(shares.sum(), 1e-12)
    order = np.argsort(shares)
    figure = Figure(figsize=(7, 0.35 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([manifest.feature_names[place] for place in order], shares[order])
    axes.set(xlabel="share of the total gain", title=f"importance: {part.name}")
    return figure
