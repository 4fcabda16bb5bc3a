"""From the spool into the log, beside the same inserts by hand: COPY, then an insert that leaves out doubles.

Both write the same rows into tables with the same partitions and indexes, a thousand a transaction by hand and as
the shipper takes them. CPU is that of the client and of its PostgreSQL process.
"""

import gc
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil
import psycopg
from psycopg.types.json import Jsonb

from pipelines import migrations
from pipelines.predictions import shipper, tables
from pipelines.predictions.spool import FolderSpool, Header, Predictions
from pipelines.predictions.tables import Connection, Row
from pipelines.serving.contract import instant
from tests.benchmarks import Report, compared
from tests.conftest import Postgres, running_postgres

ROWS, AT_ONCE, TURNS = 20_000, 1000, 6
HEADER = Header("calories", "a", "1", "d", ("Age", "Height", "Weight", "Duration", "Gender"), ("calories",))
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
REFERENCE = "psycopg 3: COPY, insert on conflict do nothing, 1,000 a transaction"


class Cost(NamedTuple):
    """Of one turn, for one row."""

    seconds: float
    cpu: float


def run() -> Report:
    """Measure; under a minute. Every row must be there once in the end."""
    gc.freeze()  # as the shipper's own process does; both sides gain
    with running_postgres() as server, _database(server, "by_hand") as other, _database(server, "ours") as own:
        pairs = [(_by_hand(other, turn), _shipped(own, turn)) for turn in range(TURNS)]
        for connection in (other, own):
            found = connection.execute(
                "select count(*), count(distinct prediction_id) from predictions"
            ).fetchone()
            assert found == (TURNS * ROWS, TURNS * ROWS), found
    times = [(other.seconds * 1e6, own.seconds * 1e6) for other, own in pairs]
    cpu = [(other.cpu * 1e6, own.cpu * 1e6) for other, own in pairs]
    return Report([
        compared("time of one logged prediction", "us", REFERENCE, times, "<= 1.5", TURNS * ROWS),
        compared("CPU of one logged prediction", "us", REFERENCE, cpu, "<= 1.5", TURNS * ROWS),
    ])


@contextmanager
def _database(server: Postgres, name: str) -> Generator[Connection]:
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name} owner touchline")
    url = server.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(url)
    with shipper.connect(url) as connection:
        with tables.turn(connection):
            tables.make_days(connection, {START}, "predictions", "outcomes")
        yield connection


def _record(turn: int, place: int) -> Predictions:
    at = instant(START) + (turn * ROWS + place) * 1000
    row = [[30.0], [180.0], [80.0], [20.0], ["male"]]
    return Predictions(
        f"r{turn}-{place}", at, 90, [0], [None], [str(place)], [None], row, [[150.0]], role="stable"
    )


def _shipped(connection: Connection, turn: int) -> Cost:
    """The place has written; only the way from there is measured."""
    with TemporaryDirectory() as folder:
        log = FolderSpool(Path(folder) / "a", HEADER)
        for place in range(ROWS):
            log.append(_record(turn, place))
        log.close()
        return _measured(connection, lambda: shipper.ship(connection, Path(folder)))


def _by_hand(connection: Connection, turn: int) -> Cost:
    rows = [_row(_record(turn, place)) for place in range(ROWS)]

    def insert() -> None:
        for first in range(0, ROWS, AT_ONCE):
            _insert(connection, rows[first : first + AT_ONCE])

    return _measured(connection, insert)


def _insert(connection: Connection, rows: list[Row]) -> None:
    columns = ", ".join(tables.PREDICTION_COLUMNS)
    with connection.transaction():
        connection.execute("create temp table fresh (like predictions) on commit drop")
        connection.execute("alter table fresh alter seq drop not null, alter superseded drop not null")
        with connection.cursor() as cursor, cursor.copy(f"copy fresh ({columns}) from stdin") as copying:
            for row in rows:
                copying.write_row(row)
        connection.execute(
            f"insert into predictions ({columns}) select {columns} from fresh on conflict do nothing"
        )


def _row(record: Predictions) -> Row:
    at = START + timedelta(microseconds=record.requested_at - instant(START))
    inputs = dict(zip(HEADER.inputs, (column[0] for column in record.inputs), strict=True))
    return (
        "calories", f"{record.request_id}-0", None, record.keys[0], at, at, "a", "1", "d", Jsonb(inputs),
        Jsonb({"calories": record.outputs[0][0]}), 0.09, None, False, "stable",
    )  # fmt: skip


def _measured(connection: Connection, work: Callable[[], object]) -> Cost:
    server = psutil.Process(connection.info.backend_pid)
    began, cpu = time.perf_counter(), _cpu(server)
    work()
    return Cost((time.perf_counter() - began) / ROWS, (_cpu(server) - cpu) / ROWS)


def _cpu(server: psutil.Process) -> float:
    times = server.cpu_times()
    return time.process_time() + float(times.user + times.system)
