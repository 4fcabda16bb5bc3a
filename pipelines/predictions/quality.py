"""What the label clock knows, read from its cells: how much is labelled, what it cost, how well each version does.

Windows are of requests, and lie on whole five minutes: a window's beginning is rounded down, and the five minutes
that `now` is in count whole. What the numbers say is what had arrived when they were read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from pipelines import rows as rows_of
from pipelines import slices
from pipelines.predictions import cells
from pipelines.predictions.cells import FIVE_MINUTES, Cell, Cells, Owner, Span
from pipelines.predictions.sums import Figure, Sums, share
from pipelines.predictions.tables import Connection
from pipelines.spec import Frozen, UseCase

WINDOWS = {
    "5m": timedelta(minutes=5),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
EVER = "ever"
SHADOW = "shadow"
_RECORDED, _LABELLED = cells.COUNTS.index("recorded"), cells.COUNTS.index("labelled")
Key = tuple[Owner, str]


class Version(NamedTuple):
    """The predictions of one model version; recorded = labelled + pending + expired (law L6)."""

    model_version: str
    recorded: int
    labelled: int
    pending: int
    expired: int
    late: int
    """Of the labelled: the first label came after the horizon."""
    superseded: int
    shadow: int
    scored: int
    """How many losses are in the sum: labelled ones with a finite loss."""
    loss_sum: float

    @property
    def mean_loss(self) -> float | None:
        """In the unit of the use case's loss; None before the first label."""
        return self.loss_sum / self.scored if self.scored else None


class Counts(NamedTuple):
    """Where the predictions and labels of one use case stand."""

    versions: tuple[Version, ...]
    labels: int
    """All that ever arrived."""
    orphans: int
    """Labels of ids that no record has (yet)."""
    keyed: int
    """Labels that name an entity and no prediction."""
    waiting: int
    """Of the keyed: those that are for no record (yet)."""


class Quality(Frozen):
    """One version in one role, slice and window."""

    model_version: str
    role: str
    """stable or canary as the proxy said; direct: no proxy asked; shadow: replayed."""
    slice: str
    window: str
    recorded: int
    labelled: int
    pending: int
    expired: int
    late: int
    superseded: int
    coverage: Figure | None
    """Labelled of recorded."""
    mean_loss: Figure | None
    metrics: dict[str, Figure | None]
    lag_p50_seconds: float | None
    """From the event to the observation; right to 9 %."""
    lag_p90_seconds: float | None


def counts(connection: Connection, use_case: UseCase, now: datetime) -> Counts:
    """Where everything stands at `now`: what has no label is pending, after the horizon expired."""
    with connection.transaction():
        _one_moment(connection)
        [found] = cells.read(connection, use_case.name, [cells.ALWAYS], every_slice=False)
        [unlabelled] = _pending(connection, use_case, now, [cells.ALWAYS], every_slice=False)
        labels = connection.execute(
            "select labels, orphans, keyed, waiting from label_clock where use_case = %s", (use_case.name,)
        ).fetchone()
    versions = sorted({owner.model_version for owner, _ in found})
    each = (_version(version, found, unlabelled) for version in versions)
    return Counts(tuple(each), *(labels or (0, 0, 0, 0)))


def quality(
    connection: Connection, use_case: UseCase, now: datetime, window: str, *, every_slice: bool = True
) -> tuple[Quality, ...]:
    """Every version, role and slice that was asked within a window of WINDOWS, or EVER."""
    sums, [read] = _read(connection, use_case, now, [window], every_slice=every_slice)
    return tuple(_quality(key, *told, window, sums) for key, told in sorted(read.items(), key=_order))


def newest(connection: Connection, use_case: UseCase, now: datetime) -> tuple[Quality, ...]:
    """Each version and role, all slices together, in the shortest window that holds a label of it."""
    windows = (*WINDOWS, EVER)
    sums, read = _read(connection, use_case, now, windows, every_slice=False)
    chosen: dict[Key, tuple[Cell, int, str]] = {}
    for window, found in zip(windows, read, strict=True):
        for key, (cell, pending) in found.items():
            if key not in chosen or chosen[key][0].counts[_LABELLED] == 0:
                chosen[key] = (cell, pending, window)
    return tuple(_quality(key, *chosen[key], sums) for key in sorted(chosen))


def _read(
    connection: Connection, use_case: UseCase, now: datetime, windows: Sequence[str], *, every_slice: bool
) -> tuple[Sums | None, list[dict[Key, tuple[Cell, int]]]]:
    """Each window's cells and what is pending in them; no sums where they were counted by another definition."""
    spans = [_span(window, now) for window in windows]
    with connection.transaction():
        _one_moment(connection)
        known = _counted_as_declared(connection, use_case)
        found = cells.read(connection, use_case.name, spans, every_slice=every_slice)
        pending = _pending(connection, use_case, now, spans, every_slice=every_slice)
    read = [
        {key: (cell, waiting[key]) for key, cell in each.items()}
        for each, waiting in zip(found, pending, strict=True)
    ]
    return Sums(use_case) if known else None, read


def _span(window: str, now: datetime) -> Span:
    if window == EVER:
        return cells.ALWAYS
    end = cells.start_of(now, FIVE_MINUTES) + timedelta(minutes=FIVE_MINUTES)
    return cells.start_of(now - WINDOWS[window], FIVE_MINUTES), end


def _one_moment(connection: Connection) -> None:
    connection.execute("set transaction isolation level repeatable read")


def _order(item: tuple[Key, object]) -> tuple[str, str, bool, str]:
    (owner, name), _ = item
    return owner.model_version, owner.role, name != slices.ALL, name


def _counted_as_declared(connection: Connection, use_case: UseCase) -> bool:
    """False until the label clock has counted by this loss and these metrics and slices."""
    row = connection.execute("select definition from label_clock where use_case = %s", (use_case.name,)).fetchone()
    return row is not None and row[0] == Sums(use_case).definition


def _version(version: str, found: Cells, pending: Mapping[Key, int]) -> Version:
    live = [
        (key, cell) for key, cell in found.items() if key[0].model_version == version and key[0].role != SHADOW
    ]
    shadows = [cell.counts for key, cell in found.items() if key[0] == Owner(version, SHADOW)]
    total = sum((cell.counts for _, cell in live), np.zeros(len(cells.COUNTS)))
    recorded, superseded, labelled, late = (round(count) for count in total.tolist())
    waiting = sum(pending[key] for key, _ in live)
    return Version(
        version, recorded, labelled, waiting, recorded - labelled - waiting, late, superseded,
        round(sum(float(each[:2].sum()) for each in shadows)),
        round(sum(float(cell.sums[0]) for _, cell in live)), sum(float(cell.sums[1]) for _, cell in live),
    )  # fmt: skip


def _quality(key: Key, cell: Cell, pending: int, window: str, sums: Sums | None) -> Quality:
    (version, role), name = key
    recorded, superseded, labelled, late = (round(count) for count in cell.counts.tolist())
    return Quality(
        model_version=version,
        role=role,
        slice=name,
        window=window,
        recorded=recorded,
        labelled=labelled,
        pending=pending,
        expired=recorded - labelled - pending,
        late=late,
        superseded=superseded,
        coverage=share(labelled, recorded),
        mean_loss=None if sums is None else sums.loss(cell.sums),
        metrics={} if sums is None else sums.metrics(cell.sums),
        lag_p50_seconds=None if sums is None else sums.lag(cell.sums, 0.5),
        lag_p90_seconds=None if sums is None else sums.lag(cell.sums, 0.9),
    )


# --- pending: by the time of the request -------------------------------------------------------------------

_BORDER = """
select p.model_version, case when p.shadow then 'shadow' else coalesce(p.role, 'direct') end, p.inputs
from predictions p
left join outcomes o on o.requested_at = p.requested_at and o.prediction_seq = p.seq
where p.use_case = %(use_case)s and p.requested_at >= %(border)s and p.requested_at < %(end)s
  and not p.superseded and o.prediction_seq is null
  and p.seq <= (select predictions_seq from label_clock where use_case = %(use_case)s)
"""


def _pending(
    connection: Connection, use_case: UseCase, now: datetime, spans: Sequence[Span], *, every_slice: bool
) -> list[Counter[Key]]:
    """Unlabelled and within the horizon: by cells, and by rows in the five minutes where the horizon ends."""
    borders = [max(begin, now - use_case.horizon) for begin, _ in spans]
    wholes = [(min(end, _up(border)), end) for border, (_, end) in zip(borders, spans, strict=True)]
    found = cells.read(connection, use_case.name, wholes, every_slice=every_slice)
    pending = [
        Counter({key: round(cell.counts[_RECORDED] - cell.counts[_LABELLED]) for key, cell in each.items()})
        for each in found
    ]
    parts = {(border, whole) for border, (whole, _) in zip(borders, wholes, strict=True) if border < whole}
    rows = {part: _rows(connection, use_case, *part) for part in parts}
    for waiting, border, (whole, _) in zip(pending, borders, wholes, strict=True):
        waiting.update(rows.get((border, whole), {}))
    return pending


def _up(time: datetime) -> datetime:
    start = cells.start_of(time, FIVE_MINUTES)
    return start if start == time else start + timedelta(minutes=FIVE_MINUTES)


def _rows(connection: Connection, use_case: UseCase, border: datetime, end: datetime) -> Counter[Key]:
    asked = {"use_case": use_case.name, "border": border, "end": end}
    rows = connection.execute(_BORDER, asked).fetchall()
    fields = {field.name: field for field in use_case.inputs}
    columns = {
        name: rows_of.column(fields[name], [inputs.get(name) for _, _, inputs in rows])
        for name in slices.inputs(use_case)
    }
    found: Counter[Key] = Counter()
    for name, mask in slices.names(use_case, columns, len(rows)):
        found.update((Owner(*rows[place][:2]), name) for place in mask.nonzero()[0].tolist())
    return found
