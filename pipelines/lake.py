"""How one table of a use case lies in Delta: where, under which commits, and what its rows say.

Three Delta tables stand behind each declared table, each append-only:
`batches` (the intents: every file that arrived), `aside` (quarantined rows and references to duplicates) and
`published`. A batch's number is committed to `aside` first and to `published` last, so a batch is done
exactly when `published` bears its number. What happens to quarantined rows later is appended in the same way,
under numbers of its own: `aside` says which rows left the quarantine and how, `published` bears the good ones.
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.records import Batch, Ledger
from pipelines.spec import Field, Table
from pipelines.tools import Tables

if TYPE_CHECKING:
    import polars as pl

RECEIVE = "receive"
PUBLISH = "publish"
REPLAY = "replay"
QUARANTINED = "quarantined"
DUPLICATE = "duplicate"
RELEASED = "released"
"""A quarantined row that was judged anew and is published, or is a duplicate."""
DISCARDED = "discarded"
"""A quarantined row that a person gave up."""
GONE = (RELEASED, DISCARDED)
LINEAGE = ("_batch", "_file", "_digest", "_row", "_hash", "_revision", "_received_at", "_suite")
"""What every published row carries beside its declared columns."""


class TableAt(NamedTuple):
    """One declared table at its place."""

    root: str
    table: Table

    @property
    def batches(self) -> str:
        """Intents."""
        return f"{self.root}/{self.table.name}/batches"

    @property
    def aside(self) -> str:
        """Quarantined rows and duplicates."""
        return f"{self.root}/{self.table.name}/aside"

    @property
    def published(self) -> str:
        """Every revision of every good row."""
        return f"{self.root}/{self.table.name}/published"

    @property
    def checked(self) -> str:
        """Judged rows between validation and publishing."""
        return f"{self.root}/{self.table.name}/checked"


def replay_file(at: TableAt, number: int) -> Path:
    """Where the rows lie that a replay publishes: written before its first commit."""
    return Path(at.checked) / f"replay-{number:08}.parquet"


def dtype(column: Field) -> "pl.DataType":
    """The type that a declared column has at rest."""
    import polars as pl

    return {"number": pl.Float64(), "integer": pl.Int64(), "text": pl.String(), "time": pl.Datetime("us", "UTC")}[
        column.type
    ]


def batches(tables: Tables, at: TableAt) -> list[Batch]:
    """Every file that ever arrived, in order."""
    rows = tables.scan(at.batches).collect()
    if rows.is_empty():
        return []
    fields = [name for name in Batch.model_fields if name in rows.columns]
    return [Batch.model_validate(row) for row in rows.select(fields).sort("number").iter_rows(named=True)]


def history(tables: Tables, at: TableAt) -> "pl.LazyFrame":
    """Every published revision; typed emptiness where there is none, or none that knows today's key."""
    import polars as pl

    rows = tables.scan(at.published)
    if set(at.table.key) <= set(rows.collect_schema()):
        return rows
    declared = {column.name: dtype(column) for column in at.table.columns}
    numbers = {"_batch": pl.Int64(), "_row": pl.Int64(), "_revision": pl.Int32()}
    return pl.LazyFrame(schema={**declared, **numbers, "_hash": pl.String()})


def in_force(tables: Tables, at: TableAt, as_of: datetime, version: int | None = None) -> "pl.DataFrame":
    """The newest revision of each key that had arrived by `as_of`, with its lineage, in order of arrival."""
    import polars as pl

    rows = tables.scan(at.published, version)
    if not rows.collect_schema():
        return pl.DataFrame(schema={column.name: dtype(column) for column in at.table.columns})
    return (
        rows
        .filter(pl.col("_received_at") <= as_of)
        .sort("_revision")
        .unique(subset=list(at.table.key), keep="last", maintain_order=True)
        .sort("_batch", "_row")
        .collect()
    )


def waiting(tables: Tables, at: TableAt) -> "pl.DataFrame":
    """What is still in quarantine, in order of arrival: `batch`, `row`, `count`, `reasons`, `raw`, …

    A file that could not be read is one line without `row`, with its lines as `count`.
    """
    import polars as pl

    aside = tables.scan(at.aside)
    if not aside.collect_schema():
        return pl.DataFrame()
    place = ["batch", "row"]
    gone = aside.filter(pl.col("kind").is_in(GONE)).select(place).unique()
    done = pl.col("batch") <= tables.committed(at.published, PUBLISH)
    quarantined = aside.filter((pl.col("kind") == QUARANTINED) & done)
    return quarantined.join(gone, on=place, how="anti", nulls_equal=True).sort(place).collect()


def ledger(tables: Tables, at: TableAt, batch: int | None = None) -> Ledger:
    """Count what was committed, of one batch or of all whose number `published` bears."""
    import polars as pl

    done = pl.col("number") <= tables.committed(at.published, PUBLISH)
    arrived = _total(tables.scan(at.batches), "rows", done, "number", batch)
    aside = tables.scan(at.aside)
    published = tables.scan(at.published)
    first = pl.col("_revision") == 1
    left = _total(aside, "count", pl.col("kind").is_in(GONE), "batch", batch)
    return Ledger(
        table=at.table.name,
        arrived=arrived,
        published=_total(published, None, first, "_batch", batch),
        revised=_total(published, None, ~first, "_batch", batch),
        quarantined=_total(aside, "count", pl.col("kind") == QUARANTINED, "batch", batch) - left,
        duplicate=_total(aside, "count", pl.col("kind") == DUPLICATE, "batch", batch),
        discarded=_total(aside, "count", pl.col("kind") == DISCARDED, "batch", batch),
    )


def _total(rows: "pl.LazyFrame", amount: str | None, where: "pl.Expr", number: str, batch: int | None) -> int:
    import polars as pl

    if not rows.collect_schema():
        return 0
    if batch is not None:
        where = where & (pl.col(number) == batch)
    counted = rows.filter(where).select(pl.len() if amount is None else pl.col(amount).sum())
    return int(counted.collect().item())
