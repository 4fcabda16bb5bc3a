"""The log with little and with much history: what comes in, what is labelled and what is read must cost the same.

Each log is filled by SQL at one rate of requests, 100,000 a day, so the longest one has a hundred days. One in ten
of the older predictions is labelled, as the label clock would have left it. Then all get the same work in turns
(A B A B): 10,000 new predictions and 10,000 labels of the last day through the real label clock, the log's part of
`status`, and the log's part of `trace`.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import psycopg

from pipelines import metrics, migrations
from pipelines.predictions import label_clock, lookup, quality, shipper, tables
from pipelines.predictions.sums import Sums
from pipelines.predictions.tables import Connection
from pipelines.spec import Slice
from pipelines.use_cases.calories import USE_CASE as CALORIES
from tests.benchmarks import Curve, Report, Result, compared
from tests.conftest import Postgres, running_postgres

USE = CALORIES.model_copy(
    update={
        "slices": (Slice(by=("Gender",)), Slice(by=("Gender", "Age"), edges={"Age": (30.0, 45.0, 60.0)})),
        "metrics": {
            "rmse": metrics.rmse("calories"),
            "mae": metrics.mae("calories"),
            "auc": metrics.auc("calories", lambda actual: (actual > 0.5).astype(float)),
        },
    }
)
SIZES = (100_000, 1_000_000, 10_000_000)
NEW, ROUNDS, A_DAY = 10_000, 5, 100_000
LOOKS = 25
"""Rounds of what only reads: a millisecond of work needs more of them than a second."""
LOOKED_UP = 20
END = datetime(2026, 3, 20, tzinfo=UTC)
AIM = "<= 1.5"
_ID = "extract(epoch from at)::bigint / 86400 || '-' || md5(n::text)::uuid || '-0'"
_PREDICTIONS = f"""
insert into predictions (use_case, prediction_id, entity_key, event_time, requested_at, place, role, model_version,
  bento_digest, inputs, outputs, latency_ms, shadow)
select 'calories', {_ID}, (n %% 50000)::text, at, at, 'a', 'stable', '1', 'd',
  jsonb_build_object('Gender', (array['male', 'female'])[1 + n %% 2], 'Age', 20 + n %% 60),
  jsonb_build_object('calories', (n %% 100) / 100.0), 0.5, false
from (
  select n, %(end)s::timestamptz - (%(n)s - n) * %(gap)s::interval as at
  from generate_series(%(first)s, %(last)s) n
) numbered
"""
_LABELS = """
insert into labels (use_case, prediction_id, actual, observed_at, received_at, source, joined)
select 'calories', prediction_id, seq % 2, soon, soon, 'api', true
from predictions, lateral (select requested_at + interval '1 minute' as soon) told where seq % 10 = 0
"""
_OUTCOMES = """
insert into outcomes (prediction_seq, use_case, requested_at, model_version, shadow, actual, loss, observed_at,
  first_received_at, label_seq)
select p.seq, 'calories', p.requested_at, '1', false, l.actual, 0.1, l.observed_at, l.received_at, l.seq
from labels l join predictions p on p.prediction_id = l.prediction_id
  and p.requested_at = l.received_at - interval '1 minute'
"""
_CELLS = """
insert into cells (use_case, minutes, starts_at, model_version, role, slice,
  recorded, superseded, labelled, late, sums)
select 'calories', %(minutes)s, date_bin(%(wide)s, requested_at, '1970-01-01Z'), '1', 'stable', slice, count(*), 0,
  count(*) filter (where seq %% 10 = 0), 0, array_fill(0::float8, array[%(width)s::int])
from predictions, unnest(%(slices)s::text[]) slice group by 3, slice
"""
_EVER = """
insert into cells select use_case, 0, '1970-01-01Z', model_version, role, slice, sum(recorded), 0,
  sum(labelled), 0,
  array_fill(0::float8, array[%(width)s::int])
from cells where minutes = 1440 group by use_case, model_version, role, slice
"""
_CLOCK = """
insert into label_clock (use_case, predictions_seq, labels_seq, definition, labels)
select 'calories', (select max(seq) from predictions), (select max(seq) from labels), %s,
  (select count(*) from labels)
"""


class Log(NamedTuple):
    """One filled log."""

    size: int
    connection: Connection
    unlabelled: list[str]
    """Predictions of the last day that have no label yet, in random order."""
    older: list[str]
    """Some of all days."""


def run() -> Report:
    """Measure; about ten minutes, most of them to fill the logs."""
    with running_postgres() as server, ExitStack() as opened:
        logs = [opened.enter_context(_filled(server, size)) for size in SIZES]
        costs = [
            [[work(log, turn) for log in logs] for turn in range(ROUNDS if unit == "s" else LOOKS)]
            for (_, unit), work in WORK.items()
        ]
    told = [_told(leg, unit, turns) for (leg, unit), turns in zip(WORK, costs, strict=True)]
    return Report([result for result, _ in told], [curve for _, curve in told])


def _told(leg: str, unit: str, turns: Sequence[Sequence[float]]) -> tuple[Result, Curve]:
    pairs = [(turn[0], turn[-1]) for turn in turns]
    result = compared(f"{leg}, 10M before", unit, "the same at 0.1M", pairs, AIM, len(pairs))
    medians = (statistics.median(costs) for costs in zip(*turns, strict=True))
    return result, Curve(leg, unit, "predictions before", tuple(zip(map(float, SIZES), medians, strict=True)))


@contextmanager
def _filled(server: Postgres, size: int) -> Generator[Log]:
    name = f"history{size}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name} owner touchline")
    url = server.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(url)
    with shipper.connect(url) as connection:
        _fill(connection, size)
        query = "select prediction_id from predictions where seq %% 10 <> 0 and seq > %s"
        ids = [row[0] for row in connection.execute(query, (size - SIZES[0],))]
        older = [row[0] for row in connection.execute(query + " and seq %% 1000 = 1", (0,))]
        for each in (ids, older):
            random.Random(0).shuffle(each)
        yield Log(size, connection, ids, older)


def _fill(connection: Connection, size: int) -> None:
    days = {END - timedelta(days=each) for each in range(size // A_DAY + 2)}
    gap = timedelta(days=1) / A_DAY
    with tables.turn(connection):
        for table in ("predictions", "outcomes", "labels"):
            tables.make_days(connection, days, table)
    for first in range(1, size + 1, 1_000_000):
        last = min(size, first + 999_999)
        connection.execute(_PREDICTIONS, {"first": first, "last": last, "n": size, "end": END, "gap": gap})
        sys.stderr.write(f"  filled {last:,} of {size:,}\n")
    connection.execute(_LABELS)
    connection.execute("analyze")
    connection.execute(_OUTCOMES)
    width, names = Sums(USE).width, ["all", "Gender=male", "Gender=female"]
    for minutes in (5, 60, 1440):
        given = {"minutes": minutes, "wide": timedelta(minutes=minutes), "width": width, "slices": names}
        connection.execute(_CELLS, given)
    connection.execute(_EVER, {"width": width})
    connection.execute(_CLOCK, (Sums(USE).definition,))
    connection.execute("vacuum analyze")


# --- the work ----------------------------------------------------------------------------------------------


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _predictions(log: Log, turn: int) -> float:
    """New ones, with a key each, of the last hour."""
    with tables.turn(log.connection):
        first = log.size + turn * NEW + 1
        gap = timedelta(hours=1) / NEW
        asked = {"first": first, "last": first + NEW - 1, "n": first + NEW, "end": END, "gap": gap}
        log.connection.execute(_PREDICTIONS, asked)
    return _timed(lambda: _caught_up(log))


def _labels(log: Log, turn: int) -> float:
    """Of predictions of the last day."""
    ids = log.unlabelled[turn * NEW : (turn + 1) * NEW]
    with tables.turn(log.connection):
        rows = [("calories", name, None, None, 1.0, END, END, "api") for name in ids]
        tables.append_labels(log.connection, rows)
    return _timed(lambda: _caught_up(log))


def _caught_up(log: Log) -> None:
    looked_at = label_clock.catch_up(log.connection, lambda _: USE)
    assert looked_at == NEW, looked_at


def _idle(log: Log, _: int) -> float:
    """A look that finds nothing new: once a second, for ever."""
    return _timed(lambda: [label_clock.catch_up(log.connection, lambda _: USE) for _ in range(10)]) / 10 * 1e3


def _status(log: Log, _: int) -> float:
    def read() -> None:
        quality.counts(log.connection, USE, END)
        quality.quality(log.connection, USE, END, quality.EVER, every_slice=False)
        quality.newest(log.connection, USE, END)

    return _timed(read) * 1e3


def _trace(log: Log, turn: int) -> float:
    first = turn * LOOKED_UP % (len(log.older) - LOOKED_UP + 1)
    ids = log.older[first : first + LOOKED_UP]
    found: list[object] = []
    seconds = _timed(lambda: found.extend(lookup.find(log.connection, each, ["calories"]) for each in ids))
    assert all(found)
    return seconds / LOOKED_UP * 1e3


WORK: dict[tuple[str, str], Callable[[Log, int], float]] = {
    ("10,000 new predictions joined", "s"): _predictions,
    ("10,000 new labels joined", "s"): _labels,
    ("a look that finds nothing new", "ms"): _idle,
    ("the log's part of status", "ms"): _status,
    ("the log's part of trace", "ms"): _trace,
}
