"""Spools to PostgreSQL: `python -m pipelines.predictions.shipper [--once]`.

How far a segment was shipped is committed with its rows, so that nothing is shipped twice or left out,
whatever dies when. One shipper works at a time; when the database is away it waits and goes on.
"""

import argparse
import gc
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg

from pipelines import catalog, settings
from pipelines.errors import Busy
from pipelines.predictions import label_clock, retention, spool, tables
from pipelines.predictions.spool import Frame, Header, Labels, Predictions
from pipelines.predictions.tables import Connection, Row
from pipelines.serving.contract import moment

log = logging.getLogger(__name__)

_LEADER = 7_400_002
"""Key of the advisory lock."""
_PAUSE_SECONDS = 1.0
_BETWEEN_DROPS = timedelta(hours=1)
_encode = msgspec.json.Encoder().encode


class Shipped(NamedTuple):
    """What one round brought into the log."""

    predictions: int
    labels: int
    segments: int
    """Finished ones, which are gone now."""


def ship(connection: Connection, root: Path) -> Shipped:
    """Bring every record of every spool below `root` into the log; finished segments are deleted.

    A segment that PostgreSQL refuses is named in the log and left; the others go on.
    """
    connection.autocommit = True  # else a file could go before its rows are committed
    offsets = _offsets(connection, root)
    total = Shipped(0, 0, 0)
    for segment in spool.segments(root):
        try:
            shipped = _ship_segment(connection, segment, segment.relative_to(root).as_posix(), offsets)
        except psycopg.DataError:
            log.exception("refused segment=%s", segment)
            continue
        total = Shipped(*(have + more for have, more in zip(total, shipped, strict=True)))
    return total


def lead(connection: Connection) -> None:
    """Become the one shipper for as long as the connection lives; raises Busy when there is one."""
    row = connection.execute("select pg_try_advisory_lock(%s)", (_LEADER,)).fetchone()
    if not row or not row[0]:
        raise Busy("another shipper is at work")


def round_trip(connection: Connection, chosen: settings.Settings) -> Shipped:
    """Ship once and let the label clock catch up."""
    shipped = ship(connection, chosen.at.spool)
    joined = label_clock.catch_up(connection, lambda name: catalog.current(name, chosen.use_cases))
    if any(shipped) or joined:
        log.info("shipped predictions=%d labels=%d segments=%d outcomes=%d", *shipped, joined)
    return shipped


def main() -> None:
    """Ship until told to stop."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--once", action="store_true", help="ship what is there and end")
    once = words.parse_args().once
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    chosen = settings.load()
    gc.freeze()  # what is loaded stays for good: no collection among many records looks through it again
    if once:
        return _work(chosen, once=True)
    while True:
        try:
            _work(chosen, once=False)
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable, Busy) as away:
            log.warning("waiting: %s", str(away).strip())
            time.sleep(_PAUSE_SECONDS)


def connect(url: str) -> Connection:
    """A connection as shipping needs it: every transaction is written out, and ended before a file goes."""
    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def _work(chosen: settings.Settings, *, once: bool) -> None:
    with connect(chosen.database) as connection:
        lead(connection)
        round_trip(connection, chosen)
        dropped_at = _drop_old_days(connection, chosen)
        while not once:
            time.sleep(_PAUSE_SECONDS)
            round_trip(connection, chosen)
            if datetime.now(UTC) - dropped_at > _BETWEEN_DROPS:
                dropped_at = _drop_old_days(connection, chosen)


def _drop_old_days(connection: Connection, chosen: settings.Settings) -> datetime:
    """End what the declared retention ends; when that was."""
    now = datetime.now(UTC)
    if chosen.retention_days is not None:
        retention.keep(connection, chosen.retention_days, now)
    return now


def _offsets(connection: Connection, root: Path) -> dict[str, int]:
    """How far each segment was shipped; entries of deleted segments are dropped."""
    with connection.transaction():
        offsets: dict[str, int] = dict(connection.execute("select segment, shipped from spool_offsets").fetchall())
        gone = [name for name in offsets if not (root / name).exists()]
        if gone:
            connection.execute("delete from spool_offsets where segment = any(%s)", (gone,))
    return offsets


def _ship_segment(connection: Connection, segment: Path, name: str, offsets: dict[str, int]) -> Shipped:
    finished = spool.finished(segment)  # before the end is read: what comes later is no rest
    begun = spool.beginning(segment)
    if begun is None:
        return Shipped(0, 0, int(finished and _set_aside(segment)))
    offset, predictions, labels = offsets.get(name, begun.end), 0, 0
    while frames := list(spool.read(segment, offset)):
        rows, told = list(_prediction_rows(begun.header, frames)), list(_label_rows(begun.header, frames))
        offset = frames[-1].end
        _commit(connection, name, offset, rows, told)
        predictions, labels = predictions + len(rows), labels + len(told)
    if finished:
        _discard(segment, offset)
    return Shipped(predictions, labels, int(finished))


def _commit(connection: Connection, name: str, offset: int, predictions: list[Row], labels: list[Row]) -> None:
    """Rows and offset, together or not at all: the offset keeps out doubles."""
    with tables.turn(connection):
        tables.append_predictions(connection, predictions)
        tables.append_labels(connection, labels)
        connection.execute(
            "insert into spool_offsets (segment, shipped) values (%s, %s)"
            " on conflict (segment) do update set shipped = excluded.shipped, shipped_at = now()",
            (name, offset),
        )


def _discard(segment: Path, offset: int) -> None:
    """A finished segment has served; one with an unreadable rest is kept beside for whoever asks."""
    if segment.stat().st_size > offset:
        _set_aside(segment)
    else:
        segment.unlink()


def _set_aside(segment: Path) -> bool:
    log.warning("torn segment=%s", segment)
    segment.rename(segment.with_suffix(".torn"))
    return True


def _prediction_rows(header: Header, frames: list[Frame]) -> Iterator[Row]:
    for frame in frames:
        record = frame.record
        if isinstance(record, Predictions):
            yield from _rows_of(header, record)


def _rows_of(header: Header, record: Predictions) -> Iterator[Row]:
    requested_at = moment(record.requested_at)
    decisions = record.decisions or [None] * len(record.rows)
    for place, (row, event_time) in enumerate(zip(record.rows, record.event_times, strict=True)):
        yield (
            header.use_case,
            f"{record.request_id}-{row}",
            record.client_ids[place],
            record.keys[place],
            requested_at if event_time is None else moment(event_time),
            requested_at,
            header.place,
            header.model_version,
            header.bento_digest,
            _json({name: values[place] for name, values in zip(header.inputs, record.inputs, strict=True)}),
            _json({name: values[place] for name, values in zip(header.outputs, record.outputs, strict=True)}),
            record.latency_us / 1000,
            decisions[place],
            record.shadow or record.role == spool.SHADOW,
            record.role,
        )


def _json(cells: dict[str, Any]) -> str:
    return _encode(cells).decode()


def _label_rows(header: Header, frames: list[Frame]) -> Iterator[Row]:
    for frame in frames:
        record = frame.record
        if isinstance(record, Labels):
            received_at = moment(record.received_at)
            for name, key, event_time, actual, observed_at in record.rows:
                when = None if event_time is None else moment(event_time)
                yield (
                    header.use_case,
                    name,
                    key,
                    when,
                    actual,
                    moment(observed_at),
                    received_at,
                    record.source,
                )


if __name__ == "__main__":
    main()
