"""How the log's tables are written: by one writer after the other, with the partitions of the days there.

The label clock remembers up to which number (`seq`) it has seen everything. A number that was drawn first may be
committed last, so writers take turns: they hold one advisory lock until their transaction ends. Then no smaller
number can appear below one that is visible.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]
Row = tuple[Any, ...]

_WRITERS = 7_400_003
"""Key of the advisory lock."""
_DAYS_AHEAD = 2
PREDICTION_COLUMNS = (
    "use_case",
    "prediction_id",
    "client_id",
    "entity_key",
    "event_time",
    "requested_at",
    "place",
    "model_version",
    "bento_digest",
    "inputs",
    "outputs",
    "latency_ms",
    "decision",
    "shadow",
    "role",
)
LABEL_COLUMNS = (
    "use_case",
    "prediction_id",
    "entity_key",
    "event_time",
    "actual",
    "observed_at",
    "received_at",
    "source",
)
_REQUESTED_AT = PREDICTION_COLUMNS.index("requested_at")
_OBSERVED_AT, _RECEIVED_AT = LABEL_COLUMNS.index("observed_at"), LABEL_COLUMNS.index("received_at")


@contextmanager
def turn(connection: Connection) -> Generator[None]:
    """One transaction in which predictions and labels may be appended; waits until it is this writer's turn."""
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (_WRITERS,))
        yield


def append_predictions(connection: Connection, rows: list[Row]) -> None:
    """Append them, in the order of PREDICTION_COLUMNS; only within a `turn`."""
    make_days(connection, {row[_REQUESTED_AT] for row in rows}, "predictions", "outcomes")
    copy(connection, "predictions", PREDICTION_COLUMNS, rows)


def append_labels(connection: Connection, rows: list[Row]) -> None:
    """Append them, in the order of LABEL_COLUMNS; only within a `turn`.

    Nothing is observed after it was received: a year that is mistyped, or a clock ahead, would else be the newest
    observation for good, and no correction could overtake it.
    """
    make_days(connection, {row[_RECEIVED_AT] for row in rows}, "labels")
    copy(connection, "labels", LABEL_COLUMNS, list(map(_observed_by_then, rows)))


def _observed_by_then(row: Row) -> Row:
    return (*row[:_OBSERVED_AT], min(row[_OBSERVED_AT], row[_RECEIVED_AT]), *row[_OBSERVED_AT + 1 :])


def copy(connection: Connection, table: str, columns: Iterable[str], rows: list[Row]) -> None:
    """COPY straight into the table."""
    named = sql.SQL(", ").join(map(sql.Identifier, columns))
    words = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table), named)
    if rows:
        with connection.cursor() as cursor, cursor.copy(words) as copying:
            for row in rows:
                copying.write_row(row)


def make_days(connection: Connection, times: set[datetime], *tables: str) -> None:
    """The partitions of these times, and of the next days while there is time."""
    days = {time.astimezone(UTC).date() for time in times}
    ahead = {max(days) + timedelta(days=n) for n in range(1, _DAYS_AHEAD + 1)} if days else set()
    for table in tables:
        for day in sorted(days | ahead):
            _make_day(connection, table, day)


def _make_day(connection: Connection, table: str, day: date) -> None:
    name = f"{table}_{day:%Y%m%d}"
    row = connection.execute("select to_regclass(%s)", (name,)).fetchone()
    if row and row[0] is None:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        words = sql.SQL("create table {} partition of {} for values from ({}) to ({})").format(
            sql.Identifier(name),
            sql.Identifier(table),
            sql.Literal(start.isoformat()),
            sql.Literal((start + timedelta(days=1)).isoformat()),
        )
        connection.execute(words)
