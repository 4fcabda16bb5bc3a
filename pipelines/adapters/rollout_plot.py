"""The picture of a rollout: each metric's estimate and confidence sequence over time, beside what is allowed."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.rollout.evidence import Finding, Verdict
from pipelines.rollout.stages import Entry

Look = tuple[datetime, str, Verdict]
COLOURS = {"PROMOTE": "#2a7f4f", "ROLLBACK": "#b3362b", "HOLD": "#b8860b"}
REACH = 4.0
"""Bands beyond so many times what is allowed are cut: in the beginning they say nothing."""


def draw_rollout(file: Path, version: str, changes: Sequence[Entry], looks: Sequence[Look]) -> None:
    """Write a PNG: one row a metric, the stages as columns of time, the verdict of each look as its colour."""
    metrics = list(dict.fromkeys(found.metric for _, _, verdict in looks for found in verdict.findings))
    figure = Figure(figsize=(10, 1.2 + 1.9 * max(len(metrics), 1)), layout="constrained")
    rows = figure.subplots(max(len(metrics), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(rows, metrics, strict=False):
        _metric(axes, metric, looks)
        _stages(axes, changes)
    _names(rows[0], changes)
    rows[-1].tick_params(axis="x", labelrotation=20)
    told = changes[-1].why if changes else f"version {version}"
    figure.suptitle(told[:150], fontsize=9)
    figure.savefig(file, dpi=110)


def _metric(axes: Axes, metric: str, looks: Sequence[Look]) -> None:
    found = [(at, each) for at, _, verdict in looks for each in verdict.findings if each.metric == metric]
    times, limit = [at for at, _ in found], found[-1][1].limit
    reach = REACH * (limit or 1.0)
    low, high = -reach, reach
    axes.fill_between(
        times,  # type: ignore[arg-type]
        [_within(each.lower, low, high, low) for _, each in found],
        [_within(each.upper, low, high, high) for _, each in found],
        step="post", color="#7a93b8", alpha=0.35, linewidth=0,
    )  # fmt: skip
    for word, colour in COLOURS.items():
        told = [(at, each.value) for at, each in found if each.verdict == word and each.value is not None]
        values = [_within(value, low, high, high) for _, value in told]
        axes.scatter([at for at, _ in told], values, s=6, color=colour)  # type: ignore[arg-type]
    axes.axhline(limit, color="#b3362b", linewidth=1, linestyle="--")
    axes.axhline(0, color="#555555", linewidth=0.6)
    axes.set_ylim(low, high)
    axes.set_ylabel(_title(found[-1][1]), fontsize=8)
    axes.tick_params(labelsize=7)


def _title(found: Finding) -> str:
    return f"{found.metric}\n{found.verdict}, n {found.n:,}"


def _within(value: float | None, low: float, high: float, missing: float) -> float:
    return missing if value is None else min(max(value, low), high)


def _stages(axes: Axes, changes: Sequence[Entry]) -> None:
    for each in changes:
        axes.axvline(each.at, color="#999999", linewidth=0.6)  # type: ignore[arg-type]


def _names(axes: Axes, changes: Sequence[Entry]) -> None:
    for each in changes:
        if each.stage_after != each.stage_before:
            text = each.stage_after or ("done" if each.kind == "rollout" else each.kind)
            axes.annotate(text, (each.at, 1.02), xycoords=("data", "axes fraction"), fontsize=7, rotation=30)
