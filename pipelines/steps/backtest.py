"""Backtest: what the use case's way of training would have answered, had it been used all along."""

import itertools
import logging
from collections.abc import Iterator
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import rows
from pipelines.errors import BadUseCase, NotEnoughData
from pipelines.records import Backtest, CleanSnapshot, GateVerdict, Window
from pipelines.scratch import scratch
from pipelines.spec import Columns, HeldOutByTime, Outputs, UseCase
from pipelines.steps.gate import Judged, judge
from pipelines.steps.train import assembled, measure
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def backtest(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, windows: int) -> Backtest:
    """Rolling origin: for each of the newest windows train on all that was before it, then answer it.

    A window is as long as what the use case holds out. BadUseCase where rows are not held out by time,
    NotEnoughData where the rows do not reach back that far.
    """
    rule = use_case.held_out
    if not isinstance(rule, HeldOutByTime):
        raise BadUseCase(f"{use_case.name}: a backtest needs rows that are held out by time (held_out)")
    whole = assembled(tools, use_case, snapshot)
    newest = whole[str(use_case.event_time)].max()
    if not isinstance(newest, datetime):
        raise NotEnoughData(f"{use_case.name}: no row has its {use_case.event_time}")
    borders = (newest - rule.window * back for back in range(windows, -1, -1))
    told = [_window(tools, use_case, whole, *ends) for ends in itertools.pairwise(borders)]
    judged = _over_all(use_case, [part for _, part in told])
    return Backtest(windows=tuple(window for window, _ in told), whole=judged)


Part = tuple[Columns, NDArray[np.float64], Outputs]


def _window(
    tools: Tools, use_case: UseCase, whole: pl.DataFrame, start: datetime, end: datetime
) -> tuple[Window, Part]:
    when = pl.col(str(use_case.event_time))
    learnt, judged = whole.filter(when <= start), whole.filter(when > start, when <= end)
    if min(learnt.height, judged.height) < use_case.gate.minimum_rows:
        told = f"{learnt.height} rows before {start:%Y-%m-%d}, {judged.height} after"
        raise NotEnoughData(f"{use_case.name}: {told}; gate.minimum_rows asks for more")
    columns = rows.columns_of(use_case, judged)
    actual = rows.targets_of(use_case, judged)[use_case.target]
    outputs = _answers(tools, use_case, learnt, columns)
    measured = measure(use_case, outputs, actual)
    window = Window(start=start, end=end, learnt=learnt.height, judged=judged.height, metrics=measured)
    log.info("backtest %s to %s: %d learnt, %d judged, %s", start.date(), end.date(), *_told(window))
    return window, (columns, actual, outputs)


def _told(window: Window) -> Iterator[object]:
    yield window.learnt
    yield window.judged
    yield {name: round(value, 5) for name, value in window.metrics.items()}


def _answers(tools: Tools, use_case: UseCase, learnt: pl.DataFrame, columns: Columns) -> Outputs:
    with scratch("backtest") as folder:
        release = folder / "release"
        manifest = tools.modeller.fit(
            use_case, rows.columns_of(use_case, learnt), rows.targets_of(use_case, learnt), release
        )
        return tools.modeller.answer(use_case, manifest, release, columns)


def _over_all(use_case: UseCase, parts: list[Part]) -> GateVerdict:
    """What the gate says to all windows together, without a champion."""
    columns = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    actual = np.concatenate([part[1] for part in parts])
    outputs = {name: np.concatenate([part[2][name] for part in parts]) for name in parts[0][2]}
    return judge(Judged(use_case, columns, actual, outputs, None, None))
