"""Cells: what the requests of five minutes came to, per version, role and slice; and of an hour, a day, and ever.

A cell is found by the time of the request, because that time is known from the first and never changes. Everything
in a cell adds up, so a change is written as what it adds to its cells, and a long time is read as few cells.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines import slices
from pipelines.predictions.tables import Connection, Row, copy

FIVE_MINUTES, HOUR, DAY, EVER = 5, 60, 1440, 0
LEVELS = (FIVE_MINUTES, HOUR, DAY, EVER)
_LONGER = {FIVE_MINUTES: HOUR, HOUR: DAY}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
COUNTS = ("recorded", "superseded", "labelled", "late")
"""What is counted of every row, labelled or not."""
_COLUMNS = ("minutes", "starts_at", "model_version", "role", "slice", *COUNTS, "sums")
_TEMPORARY = """
create temp table if not exists changes (
  minutes int, starts_at timestamptz, model_version text, role text, slice text,
  recorded bigint, superseded bigint, labelled bigint, late bigint, sums float8[]
) on commit delete rows
"""
_ADD = """
insert into cells (use_case, minutes, starts_at, model_version, role, slice,
  recorded, superseded, labelled, late, sums)
select %s, * from changes order by minutes, starts_at, model_version, role, slice
on conflict (use_case, minutes, starts_at, model_version, role, slice) do update set
  recorded = cells.recorded + excluded.recorded, superseded = cells.superseded + excluded.superseded,
  labelled = cells.labelled + excluded.labelled, late = cells.late + excluded.late,
  sums = added(cells.sums, excluded.sums)
"""
_CLEAR = """
delete from cells where use_case = %(use_case)s and minutes = %(minutes)s and starts_at = %(begin)s
"""
_SUM_UP = """
insert into cells (use_case, minutes, starts_at, model_version, role, slice,
  recorded, superseded, labelled, late, sums)
select use_case, %(minutes)s, %(begin)s, model_version, role, slice,
  sum(recorded), sum(superseded), sum(labelled), sum(late), total(sums)
from cells where use_case = %(use_case)s and minutes = %(shorter)s
  and starts_at >= %(begin)s and starts_at < %(end)s
group by use_case, model_version, role, slice
"""
_FINEST = """
select model_version, role, starts_at, sums from cells
where use_case = %s and minutes = %s and slice = %s and starts_at = any(%s)
"""
_READ = """
select %s::int, model_version, role, slice, recorded, superseded, labelled, late, sums from cells
where use_case = %s and minutes = %s and starts_at >= %s and starts_at < %s and (slice = %s or %s)
"""


class Owner(NamedTuple):
    """Whose rows."""

    model_version: str
    role: str


class Cell(NamedTuple):
    """What some rows came to."""

    counts: NDArray[np.float64]
    """(4,), in the order of COUNTS."""
    sums: NDArray[np.float64]


Cells = dict[tuple[Owner, str], Cell]
"""By owner and slice."""
Span = tuple[datetime, datetime]
"""From the one on, before the other; both on whole five minutes."""
ALWAYS = (EPOCH, NEVER)


class Change(NamedTuple):
    """What rows add to their cells."""

    owners: Sequence[Owner]
    requested_at: Sequence[datetime]
    slices: Sequence[tuple[str, NDArray[np.bool_]]]
    vectors: NDArray[np.float64]
    """(n, counts and sums)."""


def start_of(time: datetime, minutes: int) -> datetime:
    """Of the cell that holds a time."""
    if minutes == EVER:
        return EPOCH
    return time - (time - EPOCH) % timedelta(minutes=minutes)


def add(connection: Connection, use_case: str, change: Change) -> None:
    """Add rows to all cells that they belong to."""
    connection.execute(_TEMPORARY)
    rows = list(_finest(change))
    for minutes in LEVELS:
        rows = _coarser(rows, minutes)
        copy(connection, "changes", _COLUMNS, [_written(row) for row in rows])
    connection.execute(_ADD, (use_case,))
    connection.execute("delete from changes")


def replace(connection: Connection, use_case: str, start: datetime, change: Change) -> None:
    """Put rows in the place of all that five minutes hold, and sum up anew what is longer."""
    connection.execute(_CLEAR, {"use_case": use_case, "minutes": FIVE_MINUTES, "begin": start})
    connection.execute(_TEMPORARY)
    copy(connection, "changes", _COLUMNS, [_written(row) for row in _finest(change)])
    connection.execute(_ADD, (use_case,))
    connection.execute("delete from changes")
    for minutes, shorter in ((HOUR, FIVE_MINUTES), (DAY, HOUR), (EVER, DAY)):
        begin = start_of(start, minutes)
        end = NEVER if minutes == EVER else begin + timedelta(minutes=minutes)
        asked = {"use_case": use_case, "minutes": minutes, "shorter": shorter, "begin": begin, "end": end}
        connection.execute(_CLEAR, asked)
        connection.execute(_SUM_UP, asked)


def begin_anew(connection: Connection, use_case: str, since: datetime, width: int) -> None:
    """Empty what can be counted again from rows; of the days before `since`, whose rows are gone, counts stay."""
    kept = {"use_case": use_case, "since": since, "zeros": [0.0] * width}
    connection.execute(
        "delete from cells where use_case = %(use_case)s and (starts_at >= %(since)s or minutes = 0)", kept
    )
    connection.execute("update cells set sums = %(zeros)s::float8[] where use_case = %(use_case)s", kept)
    asked = {"use_case": use_case, "minutes": EVER, "shorter": DAY, "begin": EPOCH, "end": NEVER}
    connection.execute(_SUM_UP, asked)


def finest(
    connection: Connection, use_case: str, starts: Sequence[datetime]
) -> dict[tuple[Owner, datetime], NDArray[np.float64]]:
    """The sums of five minutes each, all slices together."""
    with connection.cursor(binary=True) as cursor:
        found = cursor.execute(_FINEST, (use_case, FIVE_MINUTES, slices.ALL, list(starts)))
        return {(Owner(version, role), start): np.array(sums) for version, role, start, sums in found}


def read(connection: Connection, use_case: str, spans: Sequence[Span], *, every_slice: bool = True) -> list[Cells]:
    """Everything that was requested in each span, in one question: most of the time would go into asking."""
    pieces = [
        (place, *piece) for place, span in enumerate(spans) for piece in _pieces(*span) if piece[1] < piece[2]
    ]
    asked = [
        (place, use_case, minutes, low, high, slices.ALL, every_slice) for place, minutes, low, high in pieces
    ]
    found: list[Cells] = [{} for _ in spans]
    if asked:
        with connection.cursor(binary=True) as cursor:
            rows = cursor.execute("union all".join([_READ] * len(asked)), list(chain.from_iterable(asked)))
            for place, version, role, name, *counts, sums in rows:
                key = (Owner(version, role), name)
                _sum_up(found[place], key, Cell(np.array(counts, float), np.array(sums)))
    return found


def _sum_up(found: Cells, key: tuple[Owner, str], cell: Cell) -> None:
    have = found.get(key)
    found[key] = cell if have is None else Cell(have.counts + cell.counts, have.sums + cell.sums)


_Group = tuple[int, datetime, str, str, str, NDArray[np.float64]]


def _finest(change: Change) -> Iterator[_Group]:
    """Rows of one owner, slice and five minutes together."""
    starts = [start_of(time, FIVE_MINUTES) for time in change.requested_at]
    places: dict[tuple[Owner, datetime], int] = {}
    keys = zip(change.owners, starts, strict=True)
    codes = np.array([places.setdefault(key, len(places)) for key in keys], np.intp)
    order = np.argsort(codes, kind="stable")
    groups = list(places)
    for name, mask in change.slices:
        kept = order[mask[order]]
        if len(kept) == 0:
            continue
        mine = codes[kept]
        firsts = np.flatnonzero(np.r_[True, mine[1:] != mine[:-1]])
        for code, total in zip(mine[firsts], np.add.reduceat(change.vectors[kept], firsts, axis=0), strict=True):
            owner, start = groups[code]
            yield FIVE_MINUTES, start, owner.model_version, owner.role, name, total


def _coarser(rows: list[_Group], minutes: int) -> list[_Group]:
    """The same summed up to longer times."""
    summed: dict[tuple[datetime, str, str, str], NDArray[np.float64]] = {}
    for _, start, version, role, name, total in rows:
        key = (start_of(start, minutes), version, role, name)
        summed[key] = summed[key] + total if key in summed else total
    return [(minutes, *key, total) for key, total in summed.items()]


def _written(row: _Group) -> Row:
    *key, total = row
    return *key, *(round(count) for count in total[: len(COUNTS)].tolist()), total[len(COUNTS) :].tolist()


def _pieces(
    begin: datetime, end: datetime, minutes: int = FIVE_MINUTES
) -> Iterator[tuple[int, datetime, datetime]]:
    """A time as few cells: five minutes up to the hour, hours up to the day, days, and the same down again."""
    if (begin, end) == ALWAYS:
        yield EVER, begin, end
        return
    longer = _LONGER.get(minutes)
    low, high = (end, end) if longer is None else (_next(begin, longer), start_of(end, longer))
    if longer is None or low >= high:
        yield minutes, begin, end
        return
    yield minutes, begin, low
    yield from _pieces(low, high, longer)
    yield minutes, high, end


def _next(time: datetime, minutes: int) -> datetime:
    """The first start at or after a time."""
    start = start_of(time, minutes)
    return start if start == time else start + timedelta(minutes=minutes)
