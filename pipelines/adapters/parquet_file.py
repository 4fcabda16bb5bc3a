"""Parquet: typed columns as the text that reads back as the same values."""

from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import parquet

from pipelines import cells
from pipelines.adapters.plain_text import ROWS
from pipelines.spec import Table
from pipelines.tools import Content, Cut, Piece, Unreadable

MAGIC = b"PAR1"


def pieces(file: Path, table: Table, since: tuple[int, int], *, settled: bool) -> Cut | Unreadable:
    """Ranges of rows; a Parquet file does not grow, so it is whole or none."""
    try:
        with parquet.ParquetFile(file) as opened:
            rows, names = opened.metadata.num_rows, set(opened.schema_arrow.names)
    except (pa.ArrowInvalid, OSError) as wrong:
        return Unreadable(f"not a whole Parquet file: {wrong}", 0, unfinished=True)
    if not names & {column.name for column in table.columns}:
        return Unreadable(f"no column of {table.name} is there; found {', '.join(sorted(names))[:80]}", 0)
    starts = range(since[0], rows, ROWS)
    return Cut(tuple(Piece(at, min(at + ROWS, rows), at + 1, min(ROWS, rows - at)) for at in starts), whole=True)


def read(file: Path, table: Table, piece: Piece | None) -> Content | Unreadable:
    """The rows of one piece (None: of the whole file), from the row groups that hold them."""
    try:
        with parquet.ParquetFile(file) as opened:
            start, stop = (0, opened.metadata.num_rows) if piece is None else (piece.start, piece.stop)
            typed = pl.DataFrame(pl.from_arrow(_rows(opened, start, stop)))
    except (pa.ArrowInvalid, OSError) as wrong:
        return Unreadable(f"not a whole Parquet file: {wrong}", 0)
    return Content.of(cells.as_text(typed).with_columns(_row=pl.int_range(start + 1, stop + 1, dtype=pl.Int64)))


def head(file: Path) -> pl.DataFrame:
    """The first rows, at most a batch of them."""
    with parquet.ParquetFile(file) as opened:
        return cells.as_text(pl.DataFrame(pl.from_arrow(_rows(opened, 0, min(ROWS, opened.metadata.num_rows)))))


def _rows(opened: parquet.ParquetFile, start: int, stop: int) -> pa.Table:
    groups, skipped, before = [], 0, 0
    for group in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(group).num_rows
        if before + rows <= start:
            skipped += rows
        elif before < stop:
            groups.append(group)
        before += rows
    taken: list[pa.RecordBatch] = []
    at = skipped
    for batch in opened.iter_batches(batch_size=2**16, row_groups=groups):
        low, high = max(start - at, 0), min(stop - at, batch.num_rows)
        if low < high:
            taken.append(batch.slice(low, high - low))
        at += batch.num_rows
        if at >= stop:
            break
    return pa.Table.from_batches(taken, opened.schema_arrow)
