"""Latency over the time of each phase, with what happened meanwhile."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
COLOURS = {"swap": "tab:orange", "kill": "tab:red", "dummy": "tab:grey"}


def draw(loads: Mapping[str, tuple[Any, Sequence[Any]]], file: Path) -> None:
    """p50 and p99 of each second on a logarithmic axis; failed requests as crosses."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(loads), 1, figsize=(11, 2.6 * len(loads)), squeeze=False)
    for panel, (name, (load, windows)) in zip(panels[:, 0], loads.items(), strict=True):
        at = np.array([each.at for each in load.asked])
        ms = np.array([each.seconds for each in load.asked]) * 1e3
        seconds = np.unique(at.astype(int))
        for share, style in ((0.5, "-"), (0.99, ":")):
            line = [np.quantile(ms[at.astype(int) == second], share) for second in seconds]
            panel.plot(seconds, line, style, label=f"p{share * 100:.0f}", linewidth=1)
        failed = [each.at for each in load.asked if each.codes]
        panel.plot(failed, [ms.max()] * len(failed), "rx", label=f"failed: {len(failed)}")
        for window in windows:
            panel.axvspan(window.start, window.end, alpha=0.25, color=COLOURS[window.what], linewidth=0)
        panel.set_yscale("log")
        panel.set_title(f"{name}: {len(load.asked):,} requests", fontsize=9)
        panel.set_ylabel("ms")
        panel.legend(fontsize=8, loc="upper right")
    panels[-1, 0].set_xlabel("seconds; orange: a swap, red: a place killed, grey: dummy processes burn its CPU")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
