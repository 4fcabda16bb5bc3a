"""What is known of keys that were published: derived from committed rows, looked up without reading them.

The index of a table lies in `keys` beside it and names the version up to which it speaks. Before each look-up it
takes in the commits that it has not seen (a killed run leaves some). It is made anew from the published rows where
it is missing or torn, where the log no longer tells what came when, or where it has not as many rows as the table.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipelines import key_index, lake
from pipelines.hashing import Hashes, hashes, text
from pipelines.key_index import CONTENT, PLACE, REVISION, Entries, Held, KeyIndex
from pipelines.tools import Tables

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)
LAYOUT = 2
PART = 500_000
"""Rows that are taken in at once."""
NAMES = ("_old_hash", "_old_revision", "_old_batch", "_old_row")


def known(tables: Tables, at: lake.TableAt, rows: "pl.DataFrame") -> "pl.DataFrame":
    """Of each row's key, in their order: content hash and number of the revision in force, and the newest place.

    Columns `_old_hash`, `_old_revision`, `_old_batch` and `_old_row`; null where the key is new.
    """
    return _told(Known(tables, at).find(keys(at, rows)))


class Hashed(NamedTuple):
    """Of rows, in the order of `row`: what tells known ones from new ones."""

    row: NDArray[np.int64]
    key: Hashes
    content: Hashes

    @classmethod
    def of(cls, at: lake.TableAt, rows: "pl.DataFrame") -> Self:
        """Of typed rows."""
        return cls(rows["_row"].to_numpy(), keys(at, rows), contents(at, rows))

    def where(self, some: NDArray[np.bool_]) -> Self:
        """Of some of the rows."""
        return self if some.all() else type(self)(self.row[some], self.key[some], self.content[some])


class _Coming(NamedTuple):
    """Rows of one batch, on their way into the table."""

    batch: int
    rows: Hashed
    revision: NDArray[np.int32]

    def entries(self) -> Entries:
        """What the index is to know of them."""
        places = key_index.place(np.full(len(self.revision), self.batch), self.rows.row)
        return key_index.newest(key_index.entries(self.rows.key, self.rows.content, self.revision, places))

    def asked_for(self, key: Hashes) -> Entries:
        """Of those that may have one of these keys: to put all of them in order takes much longer."""
        some = key_index.may_be_among(self.rows.key[:, 0], [key[:, 0]])
        return self._replace(rows=self.rows.where(some), revision=self.revision[some]).entries()


class Known:
    """The same for one batch after the other, those included that are on their way into the table."""

    def __init__(self, tables: Tables, at: lake.TableAt) -> None:
        self._tables, self._at = tables, at
        self._coming: list[_Coming] = []
        self._index = caught_up(tables, at)

    def add(self, batch: int, rows: Hashed, revision: NDArray[np.int32]) -> None:
        """What that batch publishes; until its commit is there it is known here alone."""
        self._coming.append(_Coming(batch, rows, revision))

    def find(self, key: Hashes) -> Entries:
        """The newest entry of each key, for rows that come behind all that was added."""
        self._take_in()
        return self._index.with_runs([some.asked_for(key) for some in self._coming]).find(key)

    def _take_in(self) -> None:
        """Entries of batches that are committed by now become the index's."""
        done = self._tables.committed(self._at.published, lake.PUBLISH) if self._coming else 0
        committed = [some.entries() for some in self._coming if some.batch <= done]
        if committed:
            self._index = caught_up(self._tables, self._at, committed)
            self._coming = [some for some in self._coming if some.batch > done]


def _told(found: Entries) -> "pl.DataFrame":
    import polars as pl

    there = pl.Series(found[:, REVISION] > 0)
    hits = found[there.to_numpy()]
    batch, row = key_index.placed(hits[:, PLACE])
    values = (text(hits[:, CONTENT]), hits[:, REVISION].astype(np.int32), batch, row)
    if not len(hits):
        return pl.DataFrame(dict(zip(NAMES, values, strict=True))).clear(len(found))
    places = pl.select(pl.when(there).then(there.cum_sum() - 1)).to_series()
    return pl.DataFrame(dict(zip(NAMES, values, strict=True))).select(pl.all().gather(places))


def caught_up(tables: Tables, at: lake.TableAt, last: Sequence[Entries] = ()) -> KeyIndex:
    """The index of every row that is published now.

    `last` are the entries of the last commits, where they are at hand: their rows need not be read again.
    """
    version, rows = tables.version(at.published), tables.rows(at.published)
    layout = _layout(at)
    index = KeyIndex.opened(Path(at.keys), layout)
    if index is not None and last and (version, rows) == _after(index, last):
        index = index.extended(last, version, rows)
    if index is not None and index.held.version < version:
        index = _behind(tables, at, index, version)
    if index is not None and (index.held.version, index.held.rows) == (version, rows):
        return index
    log.info("table=%s the index of its keys is made anew", at.table.name)
    empty = KeyIndex(Path(at.keys), Held(layout=layout, version=-1, rows=0))
    return _taken_in(at, empty, tables.scan(at.published, version), version) if version >= 0 else empty


def _after(index: KeyIndex, last: Sequence[Entries]) -> tuple[int, int]:
    """Version and rows of the table when these commits are all that the index has not seen."""
    return index.held.version + len(last), index.held.rows + sum(map(len, last))


def _behind(tables: Tables, at: lake.TableAt, index: KeyIndex, version: int) -> KeyIndex | None:
    """Take in the commits that the index has not seen; None where the log does not tell them any more."""
    added = tables.added(at.published, index.held.version, version)
    return None if added is None else _taken_in(at, index, added, version)


def _taken_in(at: lake.TableAt, index: KeyIndex, rows: "pl.LazyFrame", version: int) -> KeyIndex:
    import polars as pl

    columns = rows.collect_schema()
    total = rows.select(pl.len()).collect().item() if columns else 0
    if not set(at.table.key) <= set(columns):
        return index.extended((), version, index.held.rows + total)
    return index.extended(_read(at, rows), version, index.held.rows + total)


def _read(at: lake.TableAt, rows: "pl.LazyFrame") -> Iterator[Entries]:
    """Entries of rows, some at a time; a row without its key (of a time when the key was another) has none.

    Their contents are hashed anew: what the rows themselves carry may be another hash, of an older release.
    """
    declared = [column.name for column in at.table.columns if column.name in rows.collect_schema()]
    wanted = rows.drop_nulls(list(at.table.key)).select(*declared, "_revision", "_batch", "_row")
    for some in wanted.collect_batches(chunk_size=PART, maintain_order=False, engine="streaming"):
        places = key_index.place(some["_batch"].to_numpy(), some["_row"].to_numpy())
        yield key_index.entries(keys(at, some), contents(at, some), some["_revision"].to_numpy(), places)


def keys(at: lake.TableAt, rows: "pl.DataFrame") -> Hashes:
    """Hashes of the rows' keys. A collision would make a row of a new key a revision, and lose no row."""
    declared = {column.name: column for column in at.table.columns}
    return hashes(rows, [declared[name] for name in at.table.key])


def contents(at: lake.TableAt, rows: "pl.DataFrame") -> Hashes:
    """Hashes of all that a row says."""
    return hashes(rows, at.table.columns)


def _layout(at: lake.TableAt) -> str:
    """Other columns and other types are hashed otherwise."""
    kinds = [(column.name, column.type) for column in at.table.columns]
    return json.dumps([LAYOUT, list(at.table.key), kinds])
