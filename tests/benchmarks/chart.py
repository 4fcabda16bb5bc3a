"""Cost against size, one panel a leg that must stay flat."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from tests.benchmarks import Curve

mpl.use("agg")


def draw(curves: Sequence[Curve], file: Path) -> None:
    """Draw both axes from zero or by powers of ten, so that flat looks flat; nothing where there is no curve."""
    from matplotlib import pyplot as plt

    if not curves:
        return
    figure, panels = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.4), squeeze=False)
    for panel, curve in zip(panels[0], curves, strict=True):
        sizes, costs = zip(*curve.points, strict=True)
        panel.plot(sizes, costs, marker="o")
        panel.set_xscale("log")
        panel.set_ylim(0, max(costs) * 1.4)
        panel.set_title(curve.leg, fontsize=9)
        panel.set_xlabel(curve.size)
        panel.set_ylabel(curve.unit)
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
