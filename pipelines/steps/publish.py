"""Publish: commit each judged batch, its broken rows first, its good rows last."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from pipelines import lake
from pipelines.errors import ConservationBroken
from pipelines.hashing import text
from pipelines.key_index import Entries
from pipelines.known import contents, entries, known
from pipelines.records import CheckedArrivals, CheckedBatch, Ledger
from pipelines.spec import UseCase
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
HALVES = ("_hash_1", "_hash_2")
MOST_FILES = 100
"""A table of more files is put together: each one costs every reader a few milliseconds."""


def publish(tools: Tools, use_case: UseCase, checked: CheckedArrivals) -> Ledger:
    """Commit the batches in order, each exactly once; return the table's ledger."""
    at = lake.TableAt(tools.tables_at, use_case.table(checked.table))
    finish_replay(tools, at)
    done = tools.tables.committed(at.published, lake.PUBLISH)
    waiting = [batch for batch in checked.batches if batch.batch.number > done]
    last = None
    for batch, parts in zip(waiting, ahead(lambda batch: _parts(at, batch), waiting, 1), strict=True):
        last = _commit(tools, at, batch, parts, last)
        conserve(lake.ledger(tools.tables, at, batch.batch.number))
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


class _Parts(NamedTuple):
    """A judged batch by itself: what can be told of it before the batches in front of it are committed."""

    good: pl.DataFrame
    """With `_hash` and its halves; of a refused batch no rows."""
    broken: pl.DataFrame
    """As lines of the quarantine."""


def _parts(at: lake.TableAt, checked: CheckedBatch) -> _Parts:
    if checked.failed is not None:
        return _Parts(_hashed(at, nothing(at)), _refused(checked))
    rows = pl.read_parquet(checked.uri)
    is_broken = pl.col("_reasons").list.len() > 0
    broken = rows.filter(is_broken).select(row="_row", count=pl.lit(1), reasons="_reasons", raw="_raw")
    return _Parts(_hashed(at, rows.filter(~is_broken)), _aside(broken, checked, lake.QUARANTINED))


def _commit(tools: Tools, at: lake.TableAt, checked: CheckedBatch, parts: _Parts, last: Entries | None) -> Entries:
    """Quarantine first, published last: only the last commit says that the batch is done. What it published."""
    number = checked.batch.number
    good, aside = parts if checked.failed is not None else _split(tools, at, checked, parts, last)
    published = _published(good, at, checked)
    tools.tables.append(at.aside, aside, lake.PUBLISH, number)
    tools.tables.append(at.published, published, lake.PUBLISH, number)
    return entries(at, published, good.select(HALVES).to_numpy())


def _refused(checked: CheckedBatch) -> pl.DataFrame:
    """A refused batch whole: its rows, or one reference to the landed bytes where it is no table."""
    reason = [checked.failed]
    if not checked.uri:
        whole = {"row": None, "count": checked.batch.rows, "reasons": reason, "raw": None}
        return _aside(pl.DataFrame([whole]), checked, lake.QUARANTINED)
    rows = pl.read_parquet(checked.uri)
    return _aside(
        rows.select(row="_row", count=pl.lit(1), reasons=pl.lit(reason).list.concat("_reasons"), raw="_raw"),
        checked,
        lake.QUARANTINED,
    )


def _split(
    tools: Tools, at: lake.TableAt, checked: CheckedBatch, parts: _Parts, last: Entries | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is published, and what is not: broken rows and those that are known already."""
    good = _revised(tools, at, parts.good, last)
    duplicates = good.filter("_same").select(row="_row", count=pl.lit(1), reasons=pl.lit(None), raw=pl.lit(None))
    aside = pl.concat([parts.broken, _aside(duplicates, checked, lake.DUPLICATE)])
    return good.filter(~pl.col("_same")), aside


def revise(tools: Tools, at: lake.TableAt, rows: pl.DataFrame) -> pl.DataFrame:
    """Add `_hash`, `_same` (equal to the revision in force) and `_revision`, in order within the batch.

    What was known of each key goes with them (`known.NAMES`).
    """
    return _revised(tools, at, _hashed(at, rows), None)


def _revised(tools: Tools, at: lake.TableAt, rows: pl.DataFrame, last: Entries | None) -> pl.DataFrame:
    told = rows.hstack(known(tools.tables, at, rows, last))
    key = list(at.table.key)
    again = told.select(pl.struct(key).is_duplicated()).to_series()
    once = _numbered(told.filter(~again), (pl.col("_hash") == pl.col("_old_hash")).fill_null(False), pl.col)
    if not again.any():
        return once
    before = pl.col("_hash").shift(1).over(key)
    first = pl.col("_row") == pl.col("_row").min().over(key)
    same = (pl.col("_hash") == pl.when(first).then(pl.col("_old_hash")).otherwise(before)).fill_null(False)
    twice = _numbered(told.filter(again), same, lambda name: pl.col(name).cum_sum().over(key))
    return pl.concat([once, twice]).sort("_row", maintain_order=True)


def _numbered(rows: pl.DataFrame, same: pl.Expr, so_far: Callable[[str], pl.Expr]) -> pl.DataFrame:
    """Revisions count on from the one in force; `so_far` sums what is new of a key within the batch."""
    told = rows.with_columns(_same=same).with_columns(_revision=(~pl.col("_same")).cast(pl.Int32))
    return told.with_columns(_revision=(pl.col("_old_revision").fill_null(0) + so_far("_revision")).cast(pl.Int32))


def _hashed(at: lake.TableAt, rows: pl.DataFrame) -> pl.DataFrame:
    """Published rows hold their hash as text."""
    halves = contents(at, rows)
    return rows.with_columns(text(halves).alias("_hash"), *pl.DataFrame(halves, HALVES))


def _published(good: pl.DataFrame, at: lake.TableAt, checked: CheckedBatch) -> pl.DataFrame:
    batch = checked.batch
    return good.select(
        *(column.name for column in at.table.columns),
        _batch=pl.lit(batch.number, pl.Int64),
        _file=pl.lit(batch.file),
        _digest=pl.lit(batch.digest),
        _row="_row",
        _hash="_hash",
        _revision="_revision",
        _received_at=pl.lit(batch.received_at).dt.cast_time_unit("us"),
        _suite=pl.lit(checked.suite),
    )


def nothing(at: lake.TableAt) -> pl.DataFrame:
    """No rows, with the columns of a published table."""
    declared = {each.name: lake.dtype(each) for each in at.table.columns}
    numbers = dict.fromkeys(("_batch", "_row"), pl.Int64())
    texts = dict.fromkeys(("_file", "_digest", "_hash", "_suite"), pl.String())
    lineage = {**numbers, **texts, "_revision": pl.Int32(), "_received_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame(schema={**declared, **lineage})


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
        return nothing(at)
    rows = pl.read_parquet(lake.replay_file(at, number))
    tools.tables.append(at.published, rows, lake.REPLAY, number)
    return rows
