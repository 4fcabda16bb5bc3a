"""Files that arrive while things die, and what is known of every row in them."""

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipelines import lake
from pipelines.adapters.delta import DeltaTables
from pipelines.spec import Files, Table, UseCase
from tests.chaos.laws import Cells, Place, Published, Rows

BROKEN = 5
"""Rows of each drop that break a rule."""


class Drops:
    """A folder of files; each drop also brings broken rows, and some that arrived before."""

    def __init__(self, folder: Path, use_case: UseCase) -> None:
        self.folder, self.use_case = folder, use_case
        self.mended: dict[str, dict[Place, Cells]] = {}
        """By table: rows that a person corrected, as they are now."""
        self._read: dict[Path, Mapping[Place, Cells]] = {}

    def write(self, drop: int, seed: int = 7) -> str:
        """The next files; the name of the one with broken rows."""
        assert self.use_case.simulate is not None
        made = self.use_case.simulate(seed, drop)
        people = made["exercise"].with_columns(pl.col("Height").cast(pl.Float64))
        old = self.use_case.simulate(seed, drop - 1)["exercise"].head(3) if drop else people.head(0)
        bad = people.head(BROKEN).with_columns(pl.col("User_ID") + 5000, Height=pl.lit(999.0))
        whole = pl.concat([people, bad, old.with_columns(pl.col("Height").cast(pl.Float64))])
        whole.write_csv(self.folder / f"exercise-{drop}.csv")
        made["burnt"].write_csv(self.folder / f"calories-{drop}.csv")
        return f"exercise-{drop}.csv"

    def correct(self, table: Table, waiting: pl.DataFrame, file: Path) -> Path:
        """Corrections of waiting rows, as a person writes them for `quarantine replay --fixed`."""
        mended = [{**json.loads(raw), "Height": "180"} for raw in waiting["raw"]]
        kept, names = self.mended.setdefault(table.name, {}), [column.name for column in table.columns]
        for place, cells in zip(waiting.select("file", "row").rows(), mended, strict=True):
            kept[place] = _cells(tuple(cells[name] for name in names))
        places = waiting.select(_batch="batch", _row="row")
        pl.concat([places, pl.DataFrame(mended)], how="horizontal").write_csv(file)
        return file

    def sent(self, table: Table) -> dict[Place, Cells]:
        """Every row of every file, by what is known of it."""
        assert isinstance(table.source, Files)
        found: dict[Place, Cells] = {}
        for file in sorted(self.folder.glob(table.source.pattern)):
            if file not in self._read:
                self._read[file] = _rows_of(file, table)
            found |= self._read[file]
        return found | self.mended.get(table.name, {})


def _rows_of(file: Path, table: Table) -> dict[Place, Cells]:
    names = [column.name for column in table.columns]
    rows = pl.read_csv(file, infer_schema=False).select(names)
    return {(file.name, number): _cells(row) for number, row in enumerate(rows.iter_rows(), 1)}


def _cells(row: tuple[object, ...]) -> Cells:
    return tuple(map(_cell, row))


def _cell(value: object) -> float | str | None:
    """Numbers as numbers, however they were written."""
    try:
        return None if value is None else float(str(value))
    except ValueError:
        return str(value)


def seen_rows(root: str, use_case: UseCase, drops: Drops) -> list[Rows]:
    """Every table of a use case, read anew from its commits."""
    return [_seen(lake.TableAt(root, table), drops) for table in use_case.tables]


def _seen(at: lake.TableAt, drops: Drops) -> Rows:
    tables = DeltaTables()
    published = tables.scan(at.published).collect()
    aside = tables.scan(at.aside).collect()
    return Rows(
        at.table.name,
        lake.ledger(tables, at),
        drops.sent(at.table),
        _published(published, at.table) if published.height else [],
        list(_aside(aside)) if aside.height else [],
    )


def _published(rows: pl.DataFrame, table: Table) -> list[Published]:
    places = rows.select("_file", "_row").rows()
    keys = map(_cells, rows.select(table.key).rows())
    cells = map(_cells, rows.select(column.name for column in table.columns).rows())
    return list(map(Published, places, keys, rows["_revision"].to_list(), cells))


def _aside(rows: pl.DataFrame) -> list[tuple[str, Place]]:
    """Refused files apart: they are there whole."""
    return [
        (kind, (file, row)) for kind, file, row in rows.select("kind", "file", "row").rows() if row is not None
    ]
