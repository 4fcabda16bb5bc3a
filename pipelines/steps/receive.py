"""Receive: land the bytes of every new file and number it."""

import hashlib
import logging
import shutil
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

import polars as pl

from pipelines import lake
from pipelines.records import Arrivals, Batch
from pipelines.spec import Table, UseCase
from pipelines.tools import Arrival, Tools

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
}


def receive(tools: Tools, use_case: UseCase, table: str, now: datetime) -> Arrivals:
    """Commit an intent for each new file; return those not yet published, a killed run's first.

    A file whose digest is known already is no arrival, whatever its name.
    """
    declared = use_case.table(table)
    at = lake.TableAt(tools.tables_at, declared)
    known = tools.tables.scan(at.batches).collect()
    intents = _new(tools, declared, known, now)
    if intents:
        rows = pl.DataFrame(intents, schema=INTENTS)
        tools.tables.append(at.batches, rows, lake.RECEIVE, len(known) + len(rows))
    done = tools.tables.committed(at.published, lake.PUBLISH)
    waiting = tuple(batch for batch in lake.batches(tools.tables, at) if batch.number > done)
    for batch in waiting:
        log.info("table=%s batch=%d file=%s rows=%d", table, batch.number, batch.file, batch.rows)
    return Arrivals(table=table, batches=waiting)


def _new(tools: Tools, table: Table, known: pl.DataFrame, now: datetime) -> list[dict[str, object]]:
    seen = set(known.select("file", "stamp").iter_rows()) if len(known) else set()
    digests = set(known["digest"]) if len(known) else set()
    number = len(known)
    intents: list[dict[str, object]] = []
    for arrival in tools.source.arrivals(table, now):
        if (arrival.name, arrival.stamp) in seen:
            continue
        file, digest = _land(tools, table, arrival)
        if digest in digests:
            continue
        number += 1
        digests.add(digest)
        intents.append(_intent(tools, number, arrival, file, digest, table, now))
    return intents


def _intent(
    tools: Tools, number: int, arrival: Arrival, file: Path, digest: str, table: Table, now: datetime
) -> dict[str, object]:
    content = tools.read(file, table)
    batch = Batch(
        number=number,
        file=arrival.name,
        digest=digest,
        size=file.stat().st_size,
        rows=content.total,
        unreadable=content.reason,
        received_at=now,
    )
    return {**batch.model_dump(), "stamp": arrival.stamp}


def _land(tools: Tools, table: Table, arrival: Arrival) -> tuple[Path, str]:
    """Copy the bytes to a name made of their digest; a half-made copy never has that name."""
    tools.landing.mkdir(parents=True, exist_ok=True)
    with (
        tools.source.open(table, arrival) as raw,
        NamedTemporaryFile(dir=tools.landing, suffix=".partial", delete=False) as copy,
    ):
        shutil.copyfileobj(raw, copy)
    partial = Path(copy.name)
    with partial.open("rb") as landed:
        digest = hashlib.file_digest(landed, "sha256").hexdigest()
    return partial.replace(tools.landing / digest), digest
