"""The label clock with little and with much history: 10,000 new labels must cost the same.

Both logs are filled by SQL at one rate of requests (100,000 a day), counted once, then given labels in pairs
(A B A B in one run); nine in ten of the older predictions are labelled already.
"""

import statistics
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg

from pipelines import metrics, migrations
from pipelines.predictions import label_clock, shipper, tables
from pipelines.predictions.tables import Connection
from pipelines.spec import Slice
from pipelines.use_cases.calories import USE_CASE as CALORIES
from tests.benchmarks import Curve, Report, compared
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
LEG = "10,000 new labels onto 1M predictions"
LITTLE, MUCH, NEW, ROUNDS = 100_000, 1_000_000, 10_000, 5
A_DAY = 100_000
END = datetime(2026, 3, 20, tzinfo=UTC)
_PREDICTIONS = """
insert into predictions (use_case, prediction_id, event_time, requested_at, place, role, model_version,
  bento_digest, inputs, outputs, latency_ms, shadow)
select 'calories', 'p' || n, at, at, 'a', 'stable', '1', 'd',
  jsonb_build_object('Gender', (array['male', 'female'])[1 + n %% 2], 'Age', 20 + n %% 60),
  jsonb_build_object('calories', (n %% 100) / 100.0), 0.5, false
from (
  select n, %(end)s::timestamptz - (%(n)s - n) * %(gap)s::interval as at from generate_series(1, %(n)s) n
) numbered
"""
_LABELS = """
insert into labels (use_case, prediction_id, actual, observed_at, received_at, source)
select 'calories', prediction_id, seq %% 2, soon, soon, 'api'
from predictions, lateral (select requested_at + interval '1 minute' as soon) told
where seq <= %(n)s and seq %% 10 <> 0
"""
_NEW = """
insert into labels (use_case, prediction_id, actual, observed_at, received_at, source)
select 'calories', 'p' || (%(first)s + n), n %% 2, %(end)s, %(end)s, 'api' from generate_series(1, %(new)s) n
"""


def run() -> Report:
    """Measure; a few minutes, most of them to fill the logs."""
    with running_postgres() as server, _filled(server, LITTLE) as little, _filled(server, MUCH) as much:
        pairs = [(_cost(little, LITTLE, each), _cost(much, MUCH, each)) for each in range(ROUNDS)]
    flat = tuple(
        (float(n), statistics.median(costs))
        for n, costs in zip((LITTLE, MUCH), zip(*pairs, strict=True), strict=True)
    )
    return Report(
        [compared(LEG, "s", "the same onto 0.1M", pairs, "<= 1.5", len(pairs) * NEW)],
        [Curve(LEG, "s", "predictions before", flat)],
    )


@contextmanager
def _filled(server: Postgres, n: int) -> Generator[Connection]:
    name = f"history{n}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name} owner touchline")
    url = server.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(url)
    with shipper.connect(url) as connection:
        _fill(connection, n)
        label_clock.catch_up(connection, lambda _: USE)
        connection.execute("vacuum analyze")
        yield connection


def _fill(connection: Connection, n: int) -> None:
    """Predictions up to END; the newest ROUNDS * NEW have no label yet."""
    days = {END - timedelta(days=each) for each in range(n // A_DAY + 2)}
    asked = {"n": n, "end": END, "gap": timedelta(days=1) / A_DAY}
    with tables.turn(connection):
        for table in ("predictions", "outcomes", "labels"):
            tables.make_days(connection, days, table)
        connection.execute(_PREDICTIONS, asked)
        connection.execute(_LABELS, {**asked, "n": n - ROUNDS * NEW})
    connection.execute("analyze")


def _cost(connection: Connection, n: int, turn: int) -> float:
    with tables.turn(connection):
        asked = {"first": n - (ROUNDS - turn) * NEW, "end": END, "new": NEW}
        connection.execute(_NEW, asked)
    began = time.perf_counter()
    assert label_clock.catch_up(connection, lambda _: USE) == NEW
    return time.perf_counter() - began
