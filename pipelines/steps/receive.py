"""Receive: land the bytes of every new or changed file, cut them into batches, number each."""

import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, BinaryIO, NamedTuple

import polars as pl

from pipelines import lake
from pipelines.records import Arrivals, Batch
from pipelines.spec import Table, UseCase
from pipelines.tools import Arrival, Cut, Piece, Tools, Unreadable

log = logging.getLogger(__name__)
INTENTS: dict[str, pl.DataType] = {
    "number": pl.Int64(),
    "file": pl.String(),
    "stamp": pl.String(),
    "digest": pl.String(),
    "size": pl.Int64(),
    "rows": pl.Int64(),
    "unreadable": pl.String(),
    "received_at": pl.Datetime("us", "UTC"),
    "start": pl.Int64(),
    "stop": pl.Int64(),
    "first": pl.Int64(),
}
UNOWNED_SECONDS = 24 * 3600
CHUNK = 2**20
BEGINNING = (0, 1)
"""Offset and row where a file begins."""


class Landed(NamedTuple):
    """Bytes in the landing."""

    file: Path
    digest: str
    size: int


def receive(tools: Tools, use_case: UseCase, table: str, now: datetime) -> Arrivals:
    """Commit the intents of each new or changed file; return those not yet published, a killed run's first.

    Of a file that is an old one with more behind it only the new rows arrive. A file that changed in any
    other way arrives anew: equal rows are duplicates, corrected ones revisions. A file whose digest is known
    already is no arrival, whatever its name. All batches of a file are one commit, with the source's cursor.
    """
    declared = use_case.table(table)
    at = lake.TableAt(tools.tables_at, declared)
    sweep(tools.landing, use_case.name)
    known = lake.batches(tools.tables, at)
    last = next((batch.stamp for batch in reversed(known) if batch.stamp), None)
    seen = {batch.file: batch.stamp for batch in known}
    for arrival in tools.source.arrivals(declared, now, last):
        if seen.get(arrival.name) == arrival.stamp:
            continue
        landed = _land(tools, use_case.name, declared, arrival)
        intents = _intents(tools, declared, arrival, landed, known, now)
        if intents:
            known += intents
            rows = pl.DataFrame([batch.model_dump() for batch in intents], schema=INTENTS)
            tools.tables.append(at.batches, rows, lake.RECEIVE, len(known))
    done = tools.tables.committed(at.published, lake.PUBLISH)
    waiting = tuple(batch for batch in known if batch.number > done)
    for batch in waiting:
        log.info("table=%s batch=%d file=%s rows=%d", table, batch.number, batch.file, batch.rows)
    return Arrivals(table=table, batches=waiting)


def sweep(landing: Path, owner: str) -> None:
    """Remove half-made copies of a killed run; the step's lock keeps another run's apart.

    Files that were being made plain have no owner: they go when nobody can still be writing them.
    """
    old = time.time() - UNOWNED_SECONDS
    unowned = [left for left in landing.glob("plain-*.partial") if left.stat().st_mtime < old]
    for left in [*landing.glob(f"{owner}-*.partial"), *unowned]:
        left.unlink(missing_ok=True)


def _intents(
    tools: Tools, table: Table, arrival: Arrival, landed: Landed, known: list[Batch], now: datetime
) -> list[Batch]:
    """Batches of what is new in a file; none while all of it is known, or is still being written."""
    since = _since(tools, arrival, landed, known)
    if since is None:
        return []
    found = tools.reader.cut(landed.file, table, since, settled=arrival.settled)
    if isinstance(found, Unreadable):
        pieces = [None] if arrival.settled or not found.unfinished else []
    else:
        empty = since == BEGINNING and found.whole and arrival.settled
        pieces = [*(found.pieces or ([Piece(0, 0, 1, 0)] if empty else []))]
    return [
        _batch(len(known) + place, arrival, landed, found, piece, now) for place, piece in enumerate(pieces, 1)
    ]


def _batch(
    number: int, arrival: Arrival, landed: Landed, found: Cut | Unreadable, piece: Piece | None, now: datetime
) -> Batch:
    """One intent; it bears the source's stamp unless a last line still waits: then the file is looked at again."""
    refused = found if isinstance(found, Unreadable) else None
    return Batch(
        number=number,
        file=arrival.name,
        digest=landed.digest,
        size=landed.size,
        rows=refused.total if refused else piece.rows if piece else 0,
        unreadable=refused.reason if refused else None,
        received_at=now,
        stamp=arrival.stamp if refused or (isinstance(found, Cut) and found.whole) else "",
        start=piece.start if piece else None,
        stop=piece.stop if piece else None,
        first=piece.first if piece else 1,
    )


def _since(tools: Tools, arrival: Arrival, landed: Landed, known: list[Batch]) -> tuple[int, int] | None:
    """Offset and row where the unknown rows of a file begin; None where there are none."""
    named = [batch for batch in known if batch.file == arrival.name]
    same = [batch for batch in named[-1:] or known if batch.digest == landed.digest]
    if same:
        end = same[-1]
        return (end.stop, end.first + end.rows) if end.stop and end.rows else None
    if named and named[-1].stop:
        on = tools.reader.goes_on(tools.landing / named[-1].digest, landed.file, named[-1].stop)
        if on is not None:
            return on, named[-1].first + named[-1].rows
    return BEGINNING


def _land(tools: Tools, owner: str, table: Table, arrival: Arrival) -> Landed:
    """Copy the bytes to a name made of their digest; a half-made copy never has that name."""
    tools.landing.mkdir(parents=True, exist_ok=True)
    with (
        tools.source.open(table, arrival) as raw,
        NamedTemporaryFile(dir=tools.landing, prefix=f"{owner}-", suffix=".partial", delete=False) as copy,
    ):
        digest = _copy(raw, copy)
    partial = Path(copy.name)
    return Landed(partial.replace(tools.landing / digest), digest, (tools.landing / digest).stat().st_size)


def _copy(raw: BinaryIO, copy: IO[bytes]) -> str:
    """All bytes; their SHA-256, which is worked out while the next ones are read and written."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as beside:
        hashing = beside.submit(digest.update, b"")
        while chunk := raw.read(CHUNK):
            hashing.result()
            hashing = beside.submit(digest.update, chunk)
            copy.write(chunk)
    return digest.hexdigest()
