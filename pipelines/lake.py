"""How one table of a use case lies in Delta: where, under which commits, and what its rows say.

Three Delta tables stand behind each declared table, each append-only:
`batches` (the intents: every file that arrived), `aside` (quarantined rows and references to duplicates) and
`published`. A batch's number is committed to `aside` first and to `published` last, so a batch is done
exactly when `published` bears its number. What happens to quarantined rows later is appended in the same way,
under numbers of its own: `aside` says which rows left the quarantine and how, `published` bears the good ones.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field as field_of
from pydantic import ValidationError

from pipelines.key_index import ROW_BITS
from pipelines.records import Batch, Ledger
from pipelines.spec import Field, Frozen, Table
from pipelines.tools import Tables

if TYPE_CHECKING:
    import polars as pl

RECEIVE = "receive"
PUBLISH = "publish"
REPLAY = "replay"
PUBLISHED = "published"
REVISED = "revised"
QUARANTINED = "quarantined"
DUPLICATE = "duplicate"
RELEASED = "released"
"""A quarantined row that was judged anew and is published, or is a duplicate."""
DISCARDED = "discarded"
"""A quarantined row that a person gave up."""
GONE = (RELEASED, DISCARDED)
PLACE = ("_batch", "_row", "_revision")
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
    def keys(self) -> str:
        """The index of published keys; derived, may be removed at any time."""
        return f"{self.root}/{self.table.name}/keys"

    @property
    def tally(self) -> str:
        """What the ledger had counted already; derived, may be removed at any time."""
        return f"{self.root}/{self.table.name}/tally.json"

    @property
    def checked(self) -> str:
        """Judged rows between validation and publishing."""
        return f"{self.root}/{self.table.name}/checked"


def replay_file(at: TableAt, number: int) -> Path:
    """Where the rows lie that a replay publishes: written before its first commit."""
    return Path(at.checked) / f"replay-{number:08}.parquet"


def keep(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file that gets its name when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    write(partial)
    partial.replace(file)


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


def in_force(
    tables: Tables,
    at: TableAt,
    as_of: datetime,
    version: int | None = None,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> "pl.DataFrame":
    """The newest revision of each key that had arrived by `as_of`, with its lineage, in order of arrival.

    Or some of its columns; which rows those are is found in few and narrow ones.
    """
    import polars as pl

    rows = tables.scan(at.published, version)
    if not rows.collect_schema():
        return pl.DataFrame(schema={column.name: dtype(column) for column in at.table.columns})
    arrived = rows.filter(pl.col("_received_at") <= as_of)
    wanted = [name for name in rows.collect_schema() if name not in without and (only is None or name in only)]
    found = arrived.select({*wanted, *at.table.key, *PLACE}).collect()
    return found.select(wanted)[_newest(at, found)["_index"]]


def in_force_by_pieces(
    tables: Tables, at: TableAt, as_of: datetime, version: int, rows: int
) -> "Iterator[pl.DataFrame]":
    """The same rows without their lineage in the same order, so many at a time.

    What is held of all rows is their keys and places, to know which are in force.
    """
    import polars as pl

    rows_then = tables.scan(at.published, version)
    wanted = [name for name in rows_then.collect_schema() if name not in LINEAGE]
    arrived = rows_then.filter(pl.col("_received_at") <= as_of)
    narrow = arrived.select({*at.table.key, *PLACE}).collect(engine="streaming")
    newest = _newest(at, narrow).select(PLACE)
    del narrow
    for part in newest.iter_slices(rows):
        near = [pl.col("_batch").is_between(part["_batch"][0], part["_batch"][-1])]
        if part["_batch"].n_unique() == 1:
            near.append(pl.col("_row").is_between(part["_row"][0], part["_row"][-1]))
        some = arrived.filter(near).select(*wanted, *PLACE).collect()
        yield some.join(part, on=PLACE, how="semi").sort(_arrival()).select(wanted)


def _newest(at: TableAt, rows: "pl.DataFrame") -> "pl.DataFrame":
    """`_index` and place of each key's newest revision, in order of arrival."""
    key = list(at.table.key)
    narrow = rows.select(*key, *(name for name in PLACE if name not in key)).with_row_index("_index")
    return last_revisions(at, narrow).sort(_arrival())


def _arrival() -> "pl.Expr":
    """The order of arrival: batch and row as one number, which is sorted in a seventh of the time of two."""
    import polars as pl

    return pl.col("_batch") * (1 << ROW_BITS) + pl.col("_row")


def last_revisions(at: TableAt, rows: "pl.DataFrame") -> "pl.DataFrame":
    """Of each key the row with the highest revision; mostly each key is there once, and nothing is sorted."""
    key = list(at.table.key)
    if rows.select(key).n_unique() == rows.height:
        return rows
    return rows.sort("_revision", maintain_order=True).unique(subset=key, keep="last", maintain_order=True)


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


class Tally(Frozen):
    """How many rows of each kind a table had at a version."""

    version: int = -1
    rows: int = 0
    sums: dict[str, int] = field_of(default_factory=dict)


class Tallies(Frozen):
    """`tally.json`: what was counted of both tables, so that a ledger counts only what came since."""

    published: Tally = Tally()
    aside: Tally = Tally()


def ledger(tables: Tables, at: TableAt) -> Ledger:
    """Count what was committed, of all batches whose number `published` bears."""
    import polars as pl

    tallies = counted(tables, at)
    done = pl.col("number") <= tables.committed(at.published, PUBLISH)
    return _ledger(at.table, _arrived(tables.scan(at.batches), done), tallies.published.sums, tallies.aside.sums)


def ledger_of(table: Table, arrived: int, published: "pl.LazyFrame", aside: "pl.DataFrame") -> Ledger:
    """The same of one batch that is about to be committed."""
    return _ledger(table, arrived, _revisions(published).sums, _kinds(aside.lazy()).sums)


def _ledger(table: Table, arrived: int, published: Mapping[str, int], aside: Mapping[str, int]) -> Ledger:
    return Ledger(
        table=table.name,
        arrived=arrived,
        published=published.get(PUBLISHED, 0),
        revised=published.get(REVISED, 0),
        quarantined=aside.get(QUARANTINED, 0) - sum(aside.get(kind, 0) for kind in GONE),
        duplicate=aside.get(DUPLICATE, 0),
        discarded=aside.get(DISCARDED, 0),
    )


def keep_count(tables: Tables, at: TableAt) -> None:
    """Keep what is counted now; who holds the table's lock calls it."""
    tallies = counted(tables, at)
    if tallies != _kept(at):
        partial = Path(at.tally).with_suffix(".partial")
        partial.write_text(tallies.model_dump_json(indent=1))
        partial.replace(at.tally)


def counted(tables: Tables, at: TableAt) -> Tallies:
    """Both tables as they are now: what was kept and what came since, or everything where the two do not agree."""
    kept = _kept(at)
    return Tallies(
        published=_tally(tables, at.published, kept.published, _revisions),
        aside=_tally(tables, at.aside, kept.aside, _kinds),
    )


def _kept(at: TableAt) -> Tallies:
    try:
        return Tallies.model_validate_json(Path(at.tally).read_bytes())
    except (OSError, ValidationError):
        return Tallies()


def _tally(tables: Tables, uri: str, kept: Tally, count: "Callable[[pl.LazyFrame], Tally]") -> Tally:
    version, rows = tables.version(uri), tables.rows(uri)
    if 0 <= kept.version < version and (added := tables.added(uri, kept.version, version)) is not None:
        new = count(added)
        sums = {kind: kept.sums.get(kind, 0) + new.sums.get(kind, 0) for kind in {*kept.sums, *new.sums}}
        kept = Tally(version=version, rows=kept.rows + new.rows, sums=sums)
    if (kept.version, kept.rows) == (version, rows):
        return kept
    return count(tables.scan(uri, version)).model_copy(update={"version": version})


def _revisions(rows: "pl.LazyFrame") -> Tally:
    """Published rows, first ones and revisions."""
    import polars as pl

    if not rows.collect_schema():
        return Tally()
    total, first = rows.select(pl.len(), first=(pl.col("_revision") == 1).sum()).collect().row(0)
    return Tally(rows=total, sums={PUBLISHED: first, REVISED: total - first})


def _kinds(rows: "pl.LazyFrame") -> Tally:
    """Lines of `aside` by what became of their rows."""
    import polars as pl

    if not rows.collect_schema():
        return Tally()
    found = rows.group_by("kind").agg(pl.len(), pl.col("count").sum()).collect()
    return Tally(rows=found["len"].sum(), sums=dict(found.select("kind", "count").iter_rows()))


def _arrived(batches: "pl.LazyFrame", done: "pl.Expr") -> int:
    import polars as pl

    return (
        int(batches.filter(done).select(pl.col("rows").sum()).collect().item()) if batches.collect_schema() else 0
    )
