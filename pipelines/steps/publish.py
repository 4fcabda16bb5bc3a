"""Publish: commit each judged batch, its broken rows first, its good rows last."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import lake
from pipelines.errors import ConservationBroken
from pipelines.hashing import text
from pipelines.known import Known, contents, keys
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
KEY, CONTENT = ("_key_1", "_key_2"), ("_hash_1", "_hash_2")
"""Both halves of each hash, beside its row until it is published."""
MOST_FILES = 100
"""A table of more files is put together: each one costs every reader a few milliseconds."""


def publish(tools: Tools, use_case: UseCase, checked: CheckedArrivals) -> Ledger:
    """Commit the batches in order, each exactly once; return the table's ledger."""
    at = lake.TableAt(tools.tables_at, use_case.table(checked.table))
    finish_replay(tools, at)
    done = tools.tables.committed(at.published, lake.PUBLISH)
    _forget(at, done)
    waiting = [batch for batch in checked.batches if batch.batch.number > done]
    for batch, ready in zip(waiting, _made_ready(tools, at, waiting), strict=True):
        conserve(lake.ledger_of(at.table, batch.batch.rows, ready.published, ready.aside))
        tools.tables.append(at.aside, ready.aside, lake.PUBLISH, batch.batch.number)
        tools.tables.append(at.published, ready.published, lake.PUBLISH, batch.batch.number)
        _forget(at, batch.batch.number)
    for uri in (at.batches, at.aside, at.published):
        tools.tables.tidy(uri, MOST_FILES)
    lake.keep_count(tools.tables, at)
    whole = lake.ledger(tools.tables, at)
    conserve(whole)
    log.info("ledger %s", whole.model_dump())
    return whole


def _forget(at: lake.TableAt, done: int) -> None:
    """Judged rows that are published are not asked for again; a killed run's, and an older release's, go too."""
    for file in Path(at.checked).glob("[0-9]*.*"):
        if file.suffix != ".partial" and int(file.stem) <= done:
            file.unlink(missing_ok=True)


def conserve(ledger: Ledger) -> None:
    """Law L1; ConservationBroken when the ledger does not add up."""
    if not ledger.balanced:
        raise ConservationBroken(f"law L1: rows do not add up: {ledger.model_dump()}")


class _Parts(NamedTuple):
    """A judged batch by itself: what can be told of it before the batches in front of it are committed."""

    good: pl.DataFrame
    """With their hashes; of a refused batch no rows."""
    broken: pl.DataFrame
    """As lines of the quarantine."""


class _Ready(NamedTuple):
    """What a batch commits: quarantine first, published last; only the last commit says that it is done."""

    aside: pl.DataFrame
    published: pl.DataFrame


def _made_ready(tools: Tools, at: lake.TableAt, waiting: Sequence[CheckedBatch]) -> Iterator[_Ready]:
    """While one batch is committed the next is looked up, and the one behind it read."""
    if waiting:
        looked_up = Known(tools.tables, at)
        parts = ahead(lambda batch: _parts(at, batch), waiting, 1)
        yield from ahead(lambda batch: _ready(at, looked_up, batch, next(parts)), waiting, 1)


def _parts(at: lake.TableAt, checked: CheckedBatch) -> _Parts:
    if checked.failed is not None:
        return _Parts(_hashed(at, nothing(at)), _refused(checked))
    rows = pl.read_ipc(checked.uri)
    is_broken = pl.col("_reasons").list.len() > 0
    broken = rows.filter(is_broken).select(row="_row", count=pl.lit(1), reasons="_reasons", raw="_raw")
    return _Parts(_hashed(at, rows.filter(~is_broken)), _aside(broken, checked, lake.QUARANTINED))


def _refused(checked: CheckedBatch) -> pl.DataFrame:
    """A refused batch whole: its rows, or one reference to the landed bytes where it is no table."""
    reason = [checked.failed]
    if not checked.uri:
        whole = {"row": None, "count": checked.batch.rows, "reasons": reason, "raw": None}
        return _aside(pl.DataFrame([whole]), checked, lake.QUARANTINED)
    rows = pl.read_ipc(checked.uri)
    return _aside(
        rows.select(row="_row", count=pl.lit(1), reasons=pl.lit(reason).list.concat("_reasons"), raw="_raw"),
        checked,
        lake.QUARANTINED,
    )


def _ready(at: lake.TableAt, looked_up: Known, checked: CheckedBatch, parts: _Parts) -> _Ready:
    """What is published, and what is not: broken rows and those that are known already."""
    told = _revised(at, parts.good, looked_up)
    good = told.filter(~pl.col("_same"))
    duplicates = told.filter("_same").select(row="_row", count=pl.lit(1), reasons=pl.lit(None), raw=pl.lit(None))
    published = _published(good, at, checked)
    looked_up.add(checked.batch.number, published, good.select(KEY).to_numpy(), good.select(CONTENT).to_numpy())
    return _Ready(pl.concat([parts.broken, _aside(duplicates, checked, lake.DUPLICATE)]), published)


def revise(tools: Tools, at: lake.TableAt, rows: pl.DataFrame) -> pl.DataFrame:
    """Add `_hash`, `_same` (equal to the revision in force) and `_revision`, in order within the batch.

    What was known of each key goes with them (`known.NAMES`).
    """
    return _revised(at, _hashed(at, rows), Known(tools.tables, at))


def _revised(at: lake.TableAt, rows: pl.DataFrame, looked_up: Known) -> pl.DataFrame:
    key_hashes = rows.select(KEY).to_numpy()
    told = rows.hstack(looked_up.of(key_hashes))
    again = pl.Series(_stand_twice(key_hashes[:, 0]))
    as_before = (pl.col("_hash") == pl.col("_old_hash")).fill_null(False)
    if not again.any():
        return _numbered(told, as_before, pl.col)
    once = _numbered(told.filter(~again), as_before, pl.col)
    key = list(at.table.key)
    before = pl.col("_hash").shift(1).over(key)
    first = pl.col("_row") == pl.col("_row").min().over(key)
    same = (pl.col("_hash") == pl.when(first).then(pl.col("_old_hash")).otherwise(before)).fill_null(False)
    twice = _numbered(told.filter(again), same, lambda name: pl.col(name).cum_sum().over(key))
    return pl.concat([once, twice]).sort("_row", maintain_order=True)


def _stand_twice(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows may have the key of another one; where only the hashes are equal nothing is lost but time."""
    ordered = np.sort(hashes)
    return np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]])


def _numbered(rows: pl.DataFrame, same: pl.Expr, so_far: Callable[[str], pl.Expr]) -> pl.DataFrame:
    """Revisions count on from the one in force; `so_far` sums what is new of a key within the batch."""
    told = rows.with_columns(_same=same).with_columns(_revision=(~pl.col("_same")).cast(pl.Int32))
    return told.with_columns(_revision=(pl.col("_old_revision").fill_null(0) + so_far("_revision")).cast(pl.Int32))


def _hashed(at: lake.TableAt, rows: pl.DataFrame) -> pl.DataFrame:
    """Published rows hold their hash as text."""
    content = contents(at, rows)
    halves = pl.DataFrame(np.hstack([keys(at, rows), content]), [*KEY, *CONTENT])
    return rows.hstack(halves).with_columns(_hash=text(content))


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
