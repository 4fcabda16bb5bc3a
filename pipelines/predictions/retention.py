"""Old days of the log end: their tables are dropped whole, what they came to stays in the cells.

A day goes when it ended more than the declared retention ago and the label clock has seen all of it, so that
recorded, labelled, pending and expired go on adding up (law L6). Afterwards a label of such a prediction is one of
an unknown id. Shorter times than a day are forgotten when no window reaches them any more.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile

import psycopg
from psycopg import sql

from pipelines.errors import BadSettings
from pipelines.predictions import cells, quality, tables
from pipelines.predictions.tables import Connection
from pipelines.spec import UseCase

log = logging.getLogger(__name__)
TOGETHER = {"predictions": ("predictions", "outcomes"), "labels": ("labels",)}
"""What goes with a day of each table; the label clock says up to which number it has seen the table."""
_PATIENCE = "2s"
"""How long readers are made to wait behind a drop that waits for a reader."""
_DAYS = """
select right(child.relname, 8) from pg_inherits i
join pg_class child on child.oid = i.inhrelid join pg_class parent on parent.oid = i.inhparent
where parent.relname = %s order by 1
"""
_FORGET = "delete from cells where minutes in (%s, %s) and starts_at < %s"


def checked(days: int | None, use_cases: Iterable[UseCase]) -> int | None:
    """The setting, or BadSettings where a label may still come after the prediction is gone."""
    for use_case in use_cases:
        if days is not None and timedelta(days=days) <= use_case.horizon:
            raise BadSettings(
                f"TOUCHLINE_RETENTION_DAYS: {days} days are not longer than {use_case.name}'s labels may take "
                f"({use_case.horizon}); set a longer one"
            )
    return days


def keep(connection: Connection, days: int, now: datetime) -> list[date]:
    """Drop the days that are over; which days of predictions those were.

    A reader that will not end keeps them until the next time.
    """
    border = (now - timedelta(days=days)).astimezone(UTC).date()
    try:
        with tables.turn(connection):
            connection.execute(f"set local lock_timeout = '{_PATIENCE}'")
            dropped = [day for table in TOGETHER for day in _drop_days(connection, table, border)]
    except psycopg.errors.LockNotAvailable:
        log.warning("days before %s stay for now: somebody is reading them", border)
        return []
    longest = max(quality.WINDOWS.values())
    with connection.transaction():
        forgotten = min(datetime.combine(border, time(), UTC), now - longest - timedelta(days=1))
        connection.execute(_FORGET, (cells.FIVE_MINUTES, cells.HOUR, forgotten))
    return sorted(set(dropped))


def dropped_before(connection: Connection) -> datetime | None:
    """What was asked before is dropped; None where all of it is there."""
    row = connection.execute("select max(day) + 1 from dropped_days where table_name = 'predictions'").fetchone()
    return None if row is None or row[0] is None else datetime.combine(row[0], time(), UTC)


def _drop_days(connection: Connection, table: str, border: date) -> list[date]:
    names = [name for (name,) in connection.execute(_DAYS, (table,))]
    over = [date.fromisoformat(name) for name in names if date.fromisoformat(name) < border]
    # none is left out: what is dropped is told by its last day
    seen = list(takewhile(lambda day: _seen(connection, table, day), over))
    if len(seen) < len(over):
        log.warning(
            "table=%s: %d days stay, the label clock has not seen all of them", table, len(over) - len(seen)
        )
    for each in TOGETHER[table]:
        for day in seen:
            _drop(connection, each, day)
    return seen


def _drop(connection: Connection, table: str, day: date) -> None:
    name = _table(table, day)
    counted = connection.execute(sql.SQL("select count(*) from {}").format(name)).fetchone()
    rows = counted[0] if counted else 0
    connection.execute(sql.SQL("drop table {}").format(name))
    connection.execute(
        "insert into dropped_days (table_name, day, rows) values (%s, %s, %s) on conflict (table_name, day)"
        " do update set rows = dropped_days.rows + excluded.rows, dropped_at = now()",
        (table, day, rows),
    )
    log.info("dropped table=%s day=%s rows=%d", table, day, rows)


def _table(table: str, day: date) -> sql.Identifier:
    return sql.Identifier(f"{table}_{day:%Y%m%d}")


def _seen(connection: Connection, table: str, day: date) -> bool:
    """Whether the label clock of every use case is behind none of its rows."""
    behind = sql.SQL(
        "select 1 from {day} d left join label_clock c using (use_case)"
        " where d.seq > coalesce(c.{clock}, 0) limit 1"
    ).format(day=_table(table, day), clock=sql.Identifier(f"{table}_seq"))
    return connection.execute(behind).fetchone() is None
