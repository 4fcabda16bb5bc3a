"""Publish: commit each judged batch, its broken rows first, its good rows last."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import lake
from pipelines.errors import ConservationBroken
from pipelines.hashing import Hashes, text
from pipelines.key_index import CONTENT, REVISION, Entries
from pipelines.known import Hashed, Known
from pipelines.records import CheckedArrivals, CheckedBatch, Ledger
from pipelines.spec import UseCase
from pipelines.steps import judged
from pipelines.steps.ahead import ahead
from pipelines.tools import Tools

log = logging.getLogger(__name__)
ASIDE: dict[str, pl.DataType] = {
    "kind": pl.String(),
    "batch": pl.Int64(),
    "file": pl.String(),
    "digest": pl.String(),
    "row": pl.Int64(),
    "count": pl.Int64(),
    "reasons": pl.List(pl.String()),
    "raw": pl.String(),
    "suite": pl.String(),
    "received_at": pl.Datetime("us", "UTC"),
    "by": pl.String(),
}
MOST_FILES = 100
"""A table of more files is put together: each one costs every reader a few milliseconds."""


def publish(tools: Tools, use_case: UseCase, checked: CheckedArrivals) -> Ledger:
    """Commit the batches in order, each exactly once; return the table's ledger."""
    at = lake.TableAt(tools.tables_at, use_case.table(checked.table))
    finish_replay(tools, at)
    done = tools.tables.committed(at.published, lake.PUBLISH)
    judged.forget(at, done)
    waiting = [batch for batch in checked.batches if batch.batch.number > done]
    for batch, ready in zip(waiting, _made_ready(tools, at, waiting), strict=True):
        conserve(lake.ledger_of(at.table, batch.batch.rows, ready.published, ready.aside))
        tools.tables.append(at.aside, ready.aside, lake.PUBLISH, batch.batch.number)
        if ready.written:
            tools.tables.take_over(at.published, ready.written, lake.PUBLISH, batch.batch.number)
        else:
            tools.tables.append(at.published, ready.published.collect(), lake.PUBLISH, batch.batch.number)
        judged.forget(at, batch.batch.number)
    for uri in (at.batches, at.aside, at.published):
        tools.tables.tidy(uri, MOST_FILES)
    lake.keep_count(tools.tables, at)
    whole = lake.ledger(tools.tables, at)
    conserve(whole)
    log.info("ledger %s", whole.model_dump())
    return whole


def conserve(ledger: Ledger) -> None:
    """Law L1; ConservationBroken when the ledger does not add up."""
    if not ledger.balanced:
        raise ConservationBroken(f"law L1: rows do not add up: {ledger.model_dump()}")


class _Ready(NamedTuple):
    """What a batch commits: quarantine first, published last; only the last commit says that it is done."""

    aside: pl.DataFrame
    published: pl.LazyFrame
    written: str = ""
    """The table whose rows those are, where they lie as they are published."""


def _made_ready(tools: Tools, at: lake.TableAt, waiting: Sequence[CheckedBatch]) -> Iterator[_Ready]:
    """While one batch is committed the next is looked up."""
    if waiting:
        looked_up = Known(tools.tables, at)
        yield from ahead(lambda batch: _ready(tools, at, looked_up, batch), waiting, 1)


def _ready(tools: Tools, at: lake.TableAt, looked_up: Known, checked: CheckedBatch) -> _Ready:
    """What is published, and what is not: broken rows and those that are known already."""
    if checked.failed is not None:
        return _Ready(_refused(checked), judged.nothing(at).lazy())
    folder, number = judged.folder_of(checked), checked.batch.number
    broken = pl.read_ipc(folder / judged.BROKEN).select(
        row="_row", count=pl.lit(1), reasons="_reasons", raw="_raw"
    )
    aside = _aside(broken, checked, lake.QUARANTINED)
    hashed, written = judged.hashes_of_good(folder), str(folder / judged.GOOD)
    same, revision = _told_apart(hashed.key, hashed.content, looked_up.find(hashed.key))
    looked_up.add(number, hashed.where(~same), revision[~same])
    rows = tools.tables.scan(written)
    if (revision == 1).all() and not same.any():
        return _Ready(aside, rows, written)
    again = pl.DataFrame({"row": hashed.row[same]}).with_columns(count=pl.lit(1), reasons=None, raw=None)
    aside = pl.concat([aside, _aside(again, checked, lake.DUPLICATE)])
    if same.all():
        return _Ready(aside, judged.nothing(at).lazy())
    whole = rows.collect().sort("_row").with_columns(_revision=pl.Series(revision))
    return _Ready(aside, whole.filter(pl.Series(~same)).lazy())


def _refused(checked: CheckedBatch) -> pl.DataFrame:
    """A refused batch whole: its rows, or one reference to the landed bytes where it is no table."""
    reason = [checked.failed]
    if not checked.uri:
        whole = {"row": None, "count": checked.batch.rows, "reasons": reason, "raw": None}
        return _aside(pl.DataFrame([whole]), checked, lake.QUARANTINED)
    rows = pl.read_ipc(judged.folder_of(checked) / judged.BROKEN)
    return _aside(
        rows.select(row="_row", count=pl.lit(1), reasons=pl.lit(reason).list.concat("_reasons"), raw="_raw"),
        checked,
        lake.QUARANTINED,
    )


def revise(tools: Tools, at: lake.TableAt, rows: pl.DataFrame) -> pl.DataFrame:
    """Add `_hash`, `_same` (equal to the revision in force) and `_revision`, in order within the batch."""
    hashed = Hashed.of(at, rows)
    same, revision = _told_apart(hashed.key, hashed.content, Known(tools.tables, at).find(hashed.key))
    return rows.with_columns(_hash=text(hashed.content), _same=pl.Series(same), _revision=pl.Series(revision))


def _told_apart(key: Hashes, content: Hashes, found: Entries) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Of rows in their order: which say what is in force already, and their revisions, counted on from that."""
    before = found[:, REVISION].astype(np.int32)
    same = before > 0
    same[same] = (found[same, CONTENT] == content[same]).all(axis=1)
    revision = before + ~same
    twice = np.flatnonzero(_stand_twice(key))
    if len(twice):
        same[twice], revision[twice] = _within(key[twice], content[twice], same[twice], before[twice])
    return same, revision


def _within(
    key: Hashes, content: Hashes, same: NDArray[np.bool_], before: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """The same of rows whose keys come again: each one is compared with the one in front of it."""
    rows = pl.DataFrame(np.hstack([key, content]), ["key", "other", "content", "rest"])
    first = pl.int_range(pl.len()).over("key", "other") == 0
    as_before = (pl.col("content", "rest") == pl.col("content", "rest").shift(1)).over("key", "other")
    told = rows.with_columns(same=pl.when(first).then(pl.Series(same)).otherwise(pl.all_horizontal(as_before)))
    new = (~pl.col("same")).cast(pl.Int32).cum_sum().over("key", "other")
    counted = told.select("same", revision=pl.Series(before) + new)
    return counted["same"].to_numpy(), counted["revision"].to_numpy()


def _stand_twice(key: Hashes) -> NDArray[np.bool_]:
    """Which rows may have the key of another one; where only half of a hash is equal nothing is lost but time."""
    ordered = np.sort(key[:, 0])
    return np.isin(key[:, 0], ordered[1:][ordered[1:] == ordered[:-1]])


def _aside(rows: pl.DataFrame, checked: CheckedBatch, kind: str) -> pl.DataFrame:
    batch = checked.batch
    told = rows.with_columns(
        kind=pl.lit(kind),
        batch=pl.lit(batch.number),
        file=pl.lit(batch.file),
        digest=pl.lit(batch.digest),
        suite=pl.lit(checked.suite),
        received_at=pl.lit(batch.received_at).dt.cast_time_unit("us"),
        by=pl.lit(None),
    )
    return told.select(pl.col(name).cast(kind_of) for name, kind_of in ASIDE.items())


def finish_replay(tools: Tools, at: lake.TableAt) -> pl.DataFrame:
    """Publish what a killed replay had taken out of quarantine already; the rows, mostly none."""
    number = tools.tables.committed(at.aside, lake.REPLAY)
    if tools.tables.committed(at.published, lake.REPLAY) >= number:
        return judged.nothing(at)
    rows = pl.read_parquet(lake.replay_file(at, number))
    tools.tables.append(at.published, rows, lake.REPLAY, number)
    return rows
