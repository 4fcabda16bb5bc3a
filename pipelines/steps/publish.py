"""Publish: commit each judged batch, its broken rows first, its good rows last."""

import hashlib
import logging

import polars as pl

from pipelines import lake
from pipelines.errors import ConservationBroken
from pipelines.records import CheckedArrivals, CheckedBatch, Ledger
from pipelines.spec import UseCase
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
UNIT = "\x1f"


def publish(tools: Tools, use_case: UseCase, checked: CheckedArrivals) -> Ledger:
    """Commit the batches in order, each exactly once; return the table's ledger."""
    at = lake.TableAt(tools.tables_at, use_case.table(checked.table))
    finish_replay(tools, at)
    for batch in checked.batches:
        if batch.batch.number > tools.tables.committed(at.published, lake.PUBLISH):
            _commit(tools, at, batch)
            conserve(lake.ledger(tools.tables, at, batch.batch.number))
    whole = lake.ledger(tools.tables, at)
    conserve(whole)
    log.info("ledger %s", whole.model_dump())
    return whole


def conserve(ledger: Ledger) -> None:
    """Law L1; ConservationBroken when the ledger does not add up."""
    if not ledger.balanced:
        raise ConservationBroken(f"law L1: rows do not add up: {ledger.model_dump()}")


def _commit(tools: Tools, at: lake.TableAt, checked: CheckedBatch) -> None:
    """Quarantine first, published last: only the last commit says that the batch is done."""
    number = checked.batch.number
    if checked.failed is not None:
        good, aside = nothing(at), _refused(checked)
    else:
        good, aside = _split(tools, at, checked)
    tools.tables.append(at.aside, aside, lake.PUBLISH, number)
    tools.tables.append(at.published, good, lake.PUBLISH, number)


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


def _split(tools: Tools, at: lake.TableAt, checked: CheckedBatch) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = pl.read_parquet(checked.uri)
    broken = rows.filter(pl.col("_reasons").list.len() > 0)
    good = revise(tools, at, rows.filter(pl.col("_reasons").list.len() == 0))
    duplicates = good.filter("_same")
    aside = [
        _aside(
            broken.select(row="_row", count=pl.lit(1), reasons="_reasons", raw="_raw"),
            checked,
            lake.QUARANTINED,
        ),
        _aside(
            duplicates.select(row="_row", count=pl.lit(1), reasons=pl.lit(None), raw=pl.lit(None)),
            checked,
            lake.DUPLICATE,
        ),
    ]
    return _published(good.filter(~pl.col("_same")), at, checked), pl.concat(aside)


def revise(tools: Tools, at: lake.TableAt, rows: pl.DataFrame) -> pl.DataFrame:
    """Add `_hash`, `_same` (equal to the revision in force) and `_revision`, in order within the batch."""
    key = list(at.table.key)
    hashed = rows.with_columns(_hash=_hashes(rows, [column.name for column in at.table.columns]))
    joined = hashed.join(_latest(tools, at, hashed), on=key, how="left", maintain_order="left")
    before = pl.col("_hash").shift(1).over(key)
    first = pl.col("_row") == pl.col("_row").min().over(key)
    return joined.with_columns(
        _same=(pl.col("_hash") == pl.when(first).then(pl.col("_old_hash")).otherwise(before)).fill_null(False)
    ).with_columns(
        _revision=(
            pl.col("_old_revision").fill_null(0) + (~pl.col("_same")).cast(pl.Int32).cum_sum().over(key)
        ).cast(pl.Int32)
    )


def _latest(tools: Tools, at: lake.TableAt, rows: pl.DataFrame) -> pl.DataFrame:
    """Key, content hash and number of the revision in force of each of these rows' keys."""
    key = list(at.table.key)
    history = lake.history(tools.tables, at)
    newest = pl.col("_hash", "_revision").sort_by("_revision").last()
    return (
        history
        .select(*key, "_hash", "_revision")
        .join(rows.lazy().select(key).unique(), on=key, how="semi")
        .group_by(key)
        .agg(newest)
        .rename({"_hash": "_old_hash", "_revision": "_old_revision"})
        .collect(engine="streaming")
    )


def _hashes(rows: pl.DataFrame, names: list[str]) -> pl.Series:
    """BLAKE2b-128 of the typed cells, so that `29` and `29.0` are the same content."""
    cells = [pl.col(name).cast(pl.String).fill_null("\x00") for name in names]
    text = rows.select(pl.concat_str(cells, separator=UNIT)).to_series()
    digests = [hashlib.blake2b(each.encode(), digest_size=16).hexdigest() for each in text]
    return pl.Series("_hash", digests, pl.String)


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
