"""The label clock: prediction → label → loss, per version; rollout, monitoring and retraining read it.

`catch_up` looks only at what came since its last run. For each prediction that a new record or label
touches it works the outcome out anew, so the order in which things arrive does not matter. What changes by that
is added to the prediction's cells in the same transaction (written by `cells`, read by `quality`).

The record in force is the last one of its id. A label is for a prediction

- by its id or the client's own (which may name several), or by its key and its event time; else
- by its key alone, where the prediction was pending when that was observed: asked for before, at most a horizon
  before, and without a label of the first kind.

Of several the newest observation is in force; none is newer than its arrival. A label that arrives after the
horizon counts, as a late one.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import numpy as np
import orjson
from numpy.typing import NDArray
from psycopg.types.json import set_json_loads

from pipelines import rows as rows_of
from pipelines import slices
from pipelines.errors import UnknownUseCase
from pipelines.predictions import cells, joins
from pipelines.predictions.cells import Change, Owner
from pipelines.predictions.joins import Outcome, Touched, Window
from pipelines.predictions.retention import dropped_before
from pipelines.predictions.sums import Scored, Sums, losses
from pipelines.predictions.tables import Connection, Row, copy
from pipelines.spec import UseCase

log = logging.getLogger(__name__)
AT_ONCE = 10_000
"""So many records and labels are joined in one transaction."""
DWARFS = 1e8
"""So many times what is left: of 16 digits half are gone."""


_SETTLED = """
select coalesce(bool_and(predictions_seq >= of_predictions and labels_seq >= of_labels), false)
from label_clock,
  (select case when is_called then last_value else 0 end as of_predictions from predictions_seq_seq) given,
  (select case when is_called then last_value else 0 end as of_labels from labels_seq_seq) also_given
"""
"""Every number that was ever given was looked at. A row gets its number before anybody sees it: so nothing is new,
and no day's partition has to be asked."""
_NEWEST = "select coalesce((select max(seq) from predictions), 0), coalesce((select max(seq) from labels), 0)"
_BEHIND = """
with least as (
  select coalesce(min(predictions_seq), 0) as predictions, coalesce(min(labels_seq), 0) as labels
  from label_clock
)
select use_case from predictions, least where seq > least.predictions
union select use_case from labels, least where seq > least.labels
"""
_CLOCK = "select predictions_seq, labels_seq, definition from label_clock where use_case = %s for update"
_NTH = """
select count(*), max(seq) from (
  select seq from {} where use_case = %s and seq > %s and seq <= %s order by seq limit %s
) next
"""
_OUTCOME_COLUMNS = (
    "prediction_seq",
    "use_case",
    "requested_at",
    "model_version",
    "shadow",
    "actual",
    "loss",
    "observed_at",
    "first_received_at",
    "label_seq",
)
_KEEP = """
insert into outcomes (prediction_seq, use_case, requested_at, model_version, shadow, actual, loss, observed_at,
  first_received_at, label_seq)
select prediction_seq, use_case, requested_at, model_version, shadow, actual, loss, observed_at,
  first_received_at, label_seq from worked_out
on conflict (requested_at, prediction_seq) do update set actual = excluded.actual, loss = excluded.loss,
  observed_at = excluded.observed_at, first_received_at = excluded.first_received_at,
  label_seq = excluded.label_seq
"""


def catch_up(connection: Connection, load: Callable[[str], UseCase]) -> int:
    """Join what is new, in every use case; how many predictions were looked at."""
    set_json_loads(orjson.loads, connection)
    with connection.transaction():
        redefined = _redefined(connection, load)
        if not redefined and connection.execute(_SETTLED).fetchone() == (True,):
            return 0
        newest = connection.execute(_NEWEST).fetchone() or (0, 0)
        names = {name for (name,) in connection.execute(_BEHIND)} | redefined
        _make_known(connection, names, load)
        connection.execute(
            "update label_clock set predictions_seq = %s, labels_seq = %s"
            " where use_case <> all(%s) and (predictions_seq < %s or labels_seq < %s)",
            (*newest, list(names), *newest),
        )
    return sum(_catch_up_one(connection, name, load, newest) for name in sorted(names))


def _make_known(connection: Connection, names: Iterable[str], load: Callable[[str], UseCase]) -> None:
    """A use case is behind from its first record on, also when its first look was killed and others went on."""
    known = [(name, definition) for name in names if (definition := _definition(name, load)) is not None]
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into label_clock (use_case, predictions_seq, labels_seq, definition) values (%s, 0, 0, %s)"
            " on conflict do nothing",
            known,
        )


def _redefined(connection: Connection, load: Callable[[str], UseCase]) -> set[str]:
    """The use cases that are counted otherwise than they are declared now."""
    known = connection.execute("select use_case, definition from label_clock").fetchall()
    return {name for name, counted in known if _definition(name, load) not in {None, counted}}


def _definition(name: str, load: Callable[[str], UseCase]) -> str | None:
    """None: there is no such use case any more, so what was counted stays."""
    try:
        return Sums(load(name)).definition
    except UnknownUseCase:
        return None


def _catch_up_one(
    connection: Connection, name: str, load: Callable[[str], UseCase], newest: tuple[int, int]
) -> int:
    try:
        use_case = load(name)
    except UnknownUseCase as gone:
        log.warning("labels wait: %s", gone)
        return 0
    looked_at, sums, more = 0, Sums(use_case), True
    while more:
        with connection.transaction():
            window = _window(connection, use_case, sums, newest)
            more = not window.empty
            looked_at += _join(connection, use_case, sums, window) if more else 0
    return looked_at


def _join(connection: Connection, use_case: UseCase, sums: Sums, window: Window) -> int:
    touched = joins.touched(connection, use_case, window)
    for at in range(0, len(touched), AT_ONCE):
        for start in _count(connection, use_case, sums, touched[at : at + AT_ONCE]):
            _recount(connection, use_case, sums, start, window.predictions_to)
    joins.advance(connection, window)
    return len(touched)


def _window(connection: Connection, use_case: UseCase, sums: Sums, newest: tuple[int, int]) -> Window:
    """The next records and labels; from the first ones on where the use case is counted otherwise now."""
    predictions, labels, definition = connection.execute(_CLOCK, (use_case.name,)).fetchone() or (0, 0, None)
    if definition != sums.definition:
        _begin_anew(connection, use_case, sums)
        predictions, labels = 0, 0
    return Window(
        use_case.name,
        predictions, _nth(connection, "predictions", use_case, predictions, newest[0]),
        labels, _nth(connection, "labels", use_case, labels, newest[1]),
    )  # fmt: skip


def _begin_anew(connection: Connection, use_case: UseCase, sums: Sums) -> None:
    log.info("%s is counted anew: its loss, metrics, slices or horizon changed", use_case.name)
    connection.execute("delete from outcomes where use_case = %s", (use_case.name,))
    cells.begin_anew(connection, use_case.name, dropped_before(connection) or cells.EPOCH, sums.width)
    connection.execute(
        "update label_clock set predictions_seq = 0, labels_seq = 0, definition = %s,"
        " labels = 0, orphans = 0, keyed = 0, waiting = 0 where use_case = %s",
        (sums.definition, use_case.name),
    )


def _nth(connection: Connection, table: str, use_case: UseCase, since: int, newest: int) -> int:
    """Up to which number to go: so far that no more than AT_ONCE rows are new."""
    asked = (use_case.name, since, newest, AT_ONCE)
    n, last = connection.execute(_NTH.format(table), asked).fetchone() or (0, None)
    return last if n == AT_ONCE else max(since, newest)


def _count(
    connection: Connection, use_case: UseCase, sums: Sums, touched: Sequence[Touched]
) -> Sequence[datetime]:
    """Write outcomes and what they change in the cells; the five minutes that must be counted anew."""
    vectors = np.zeros((len(touched), len(cells.COUNTS) + sums.width))
    vectors[:, 0] = [int(not each.superseded) - int(not each.new) for each in touched]
    vectors[:, 1] = [each.superseded for each in touched]
    gone = [place for place, each in enumerate(touched) if each.changed and each.before]
    come = [place for place, each in enumerate(touched) if each.changed and each.after]
    old = _vectors(use_case, sums, [(touched[place], touched[place].before) for place in gone])
    now = _vectors(use_case, sums, [(touched[place], touched[place].after) for place in come])
    vectors[gone] -= old
    vectors[come] += now
    _keep(connection, use_case, [touched[place] for place in come], losses(now[:, len(cells.COUNTS) :]))
    _forget(connection, [touched[place] for place in gone if touched[place].after is None])
    moved = np.flatnonzero(vectors.any(axis=1)).tolist()
    if moved:
        some = [touched[place] for place in moved]
        cells.add(connection, use_case.name, _change(use_case, some, vectors[moved]))
    return _shaken(connection, use_case, [touched[place] for place in gone], old[:, len(cells.COUNTS) :])


def _shaken(
    connection: Connection, use_case: UseCase, gone: Sequence[Touched], old: NDArray[np.float64]
) -> Sequence[datetime]:
    """Where a number was taken away that dwarfs what is left: what is left then is its rounding error."""
    taken: dict[tuple[Owner, datetime], NDArray[np.float64]] = {}
    for each, vector in zip(gone, np.abs(old), strict=True):
        key = (each.owner, cells.start_of(each.requested_at, cells.FIVE_MINUTES))
        taken[key] = np.maximum(taken[key], vector) if key in taken else vector
    left = cells.finest(connection, use_case.name, sorted({start for _, start in taken})) if taken else {}
    shaken = {
        start
        for (owner, start), most in taken.items()
        if (most > DWARFS * np.maximum(np.abs(left[owner, start]), 1 / DWARFS)).any()
    }
    return sorted(shaken)


def _recount(connection: Connection, use_case: UseCase, sums: Sums, start: datetime, last: int) -> None:
    """Five minutes from their rows."""
    end = start + timedelta(minutes=cells.FIVE_MINUTES)
    every = joins.between(connection, use_case, start, end, last)
    vectors = np.zeros((len(every), len(cells.COUNTS) + sums.width))
    vectors[:, 0] = [not each.superseded for each in every]
    vectors[:, 1] = [each.superseded for each in every]
    known = [place for place, each in enumerate(every) if each.after]
    vectors[known] += _vectors(use_case, sums, [(every[place], every[place].after) for place in known])
    cells.replace(connection, use_case.name, start, _change(use_case, every, vectors))


def _change(use_case: UseCase, touched: Sequence[Touched], vectors: NDArray[np.float64]) -> Change:
    fields = {field.name: field for field in use_case.inputs}
    columns = {
        name: rows_of.column(fields[name], [each.inputs.get(name) for each in touched])
        for name in slices.inputs(use_case)
    }
    inside = slices.names(use_case, columns, len(touched))
    return Change([each.owner for each in touched], [each.requested_at for each in touched], inside, vectors)


def _vectors(use_case: UseCase, sums: Sums, told: Sequence[tuple[Touched, Outcome | None]]) -> NDArray[np.float64]:
    """What labels add to recorded predictions, (n, counts and sums)."""
    pairs = [(each, outcome) for each, outcome in told if outcome is not None]
    rows = np.zeros((len(pairs), len(cells.COUNTS) + sums.width))
    rows[:, 2] = 1
    rows[:, 3] = [outcome.first_received_at > each.requested_at + use_case.horizon for each, outcome in pairs]
    scored = Scored(
        [each.outputs for each, _ in pairs],
        np.array([outcome.actual for _, outcome in pairs], np.float64),
        np.array([(outcome.observed_at - each.event_time).total_seconds() for each, outcome in pairs], np.float64),
    )
    rows[:, len(cells.COUNTS) :] = sums.rows(scored)
    return rows


def _keep(
    connection: Connection, use_case: UseCase, labelled: Sequence[Touched], losses: Sequence[float | None]
) -> None:
    rows: list[Row] = []
    for each, loss in zip(labelled, losses, strict=True):
        if each.after is not None:
            version, role = each.owner
            known = (each.seq, use_case.name, each.requested_at, version, role == "shadow")
            rows.append((*known, each.after.actual, loss, *each.after[1:], each.label_seq))
    copy(connection, "worked_out", _OUTCOME_COLUMNS, rows)
    connection.execute(_KEEP)
    connection.execute("delete from worked_out")


def _forget(connection: Connection, touched: Sequence[Touched]) -> None:
    """Superseded records have no outcome."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "delete from outcomes where requested_at = %s and prediction_seq = %s",
            [(each.requested_at, each.seq) for each in touched],
        )
