"""Judged rows between validation and publishing: on disk, in a folder a batch, until they are published.

The good ones lie there as the published table will hold them: where none of them was known before, which is most
of the time, publishing takes them over as they are, and has looked at nothing but the hashes beside them. Of the
broken ones there are the reasons, and how they came.
"""

import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl

from pipelines import lake
from pipelines.errors import JudgedAnew
from pipelines.hashing import text
from pipelines.known import Hashed
from pipelines.records import Batch, CheckedBatch
from pipelines.tools import Tables

BROKEN, GOOD = "broken.arrow", "good"
"""Rows with reasons; a table of those without, beside the arrays of their `Hashed`."""
SOUND = pl.col("_reasons").list.len() == 0


def new_folder(at: lake.TableAt, batch: Batch) -> Path:
    """Where the rows of a batch may be kept, this time.

    Another run may be publishing what was kept of the batch before; what was kept before that goes.
    """
    checked = Path(at.checked)
    checked.mkdir(parents=True, exist_ok=True)
    for folder in sorted(checked.glob(f"{batch.number:08}.*"))[:-1]:
        _remove(folder)
    folder = checked / f"{batch.number:08}.{time.time_ns()}"
    folder.mkdir()
    return folder


def folder_of(checked: CheckedBatch) -> Path:
    """Where the rows of a judgement lie; JudgedAnew when there were two since."""
    folder, batch = Path(checked.uri), checked.batch
    if not folder.exists():
        raise JudgedAnew(
            f"batch {batch.number} ({batch.file}): other runs judged it meanwhile, what this one judged is gone; "
            "they publish it, or the next ingest does"
        )
    return folder


def keep_broken(rows: pl.DataFrame, folder: Path) -> None:
    """Reasons of rows, and how they came."""
    rows.select("_row", "_reasons", "_raw").write_ipc(folder / BROKEN)


def keep_good(
    tables: Tables, at: lake.TableAt, batch: Batch, suite: str, rows: pl.DataFrame, folder: Path
) -> None:
    """Rows without reasons, as first revisions, with their hashes."""
    hashed = Hashed.of(at, rows)
    for name, values in hashed._asdict().items():
        np.save(folder / f"{name}.npy", values)
    first = rows.with_columns(_hash=text(hashed.content), _revision=pl.lit(1, pl.Int32))
    tables.write(str(folder / GOOD), published(at, first, batch, suite))


def hashes_of_good(folder: Path) -> Hashed:
    """Of the rows of its table, in their order."""
    return Hashed(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Hashed._fields))


def forget(at: lake.TableAt, done: int) -> None:
    """Judged rows that are published are not asked for again; a killed run's, and an older release's, go too."""
    for left in Path(at.checked).glob("[0-9]*.*"):
        if int(left.name.partition(".")[0]) <= done:
            _remove(left)


def _remove(left: Path) -> None:
    """Another run may be at it too; what is left is met again by the next one."""
    if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


def published(at: lake.TableAt, good: pl.DataFrame, batch: Batch, suite: str) -> pl.DataFrame:
    """As the published table holds rows that have their hash and their revision."""
    return good.select(
        *(column.name for column in at.table.columns),
        _batch=pl.lit(batch.number, pl.Int64),
        _file=pl.lit(batch.file),
        _digest=pl.lit(batch.digest),
        _row="_row",
        _hash="_hash",
        _revision="_revision",
        _received_at=pl.lit(batch.received_at).dt.cast_time_unit("us"),
        _suite=pl.lit(suite),
    )


def nothing(at: lake.TableAt) -> pl.DataFrame:
    """No rows, with the columns of a published table."""
    declared = {each.name: lake.dtype(each) for each in at.table.columns}
    numbers = dict.fromkeys(("_batch", "_row"), pl.Int64())
    texts = dict.fromkeys(("_file", "_digest", "_hash", "_suite"), pl.String())
    lineage = {**numbers, **texts, "_revision": pl.Int32(), "_received_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame(schema={**declared, **lineage})
