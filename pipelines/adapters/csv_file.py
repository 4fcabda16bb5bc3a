"""Reads a CSV file into text cells, and says why where it is none."""

from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import csv

from pipelines.spec import Table
from pipelines.tools import Content, Ragged, Unreadable

CONFLICT_MARKERS = ("<<<<<<<", "=======", ">>>>>>>")


def read(file: Path, table: Table) -> Content | Unreadable:
    """`Reader`: columns by name, every cell as text or null; the bytes must be UTF-8."""
    why = _header_fault(file, table)
    if why is not None:
        return Unreadable(why, _lines(file))
    ragged: list[Ragged] = []

    def set_aside(row: csv.InvalidRow) -> str:
        ragged.append(Ragged(row.number - 1, row.actual_columns, row.expected_columns, row.text))
        return "skip"

    try:
        cells = _parse(file, set_aside)
    except (pa.ArrowInvalid, UnicodeDecodeError) as wrong:
        return Unreadable(f"not a CSV table: {wrong}", _lines(file))
    whole = cells.num_rows + len(ragged)
    taken = {one.row for one in ragged}
    places = pl.Series("_row", [row for row in range(1, whole + 1) if row not in taken], pl.Int64)
    return Content(pl.DataFrame(pl.from_arrow(cells)).with_columns(places), tuple(ragged))


def _parse(file: Path, set_aside: "csv.InvalidRowHandler") -> pa.Table:
    names = _header(file)
    return csv.read_csv(
        file,
        read_options=csv.ReadOptions(use_threads=False),
        parse_options=csv.ParseOptions(
            invalid_row_handler=set_aside, ignore_empty_lines=False, newlines_in_values=True
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _header(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        return [name.strip('"') for name in text.readline().rstrip("\r\n").split(",")]


def _header_fault(file: Path, table: Table) -> str | None:
    expected = [column.name for column in table.columns]
    try:
        found = _header(file)
    except UnicodeDecodeError as wrong:
        return f"the file is not UTF-8 text: {wrong.reason} at byte {wrong.start}"
    if set(expected) & set(found) and len(set(found)) == len(found):
        return None
    first = ",".join(found)[:80]
    if not first:
        return "the file is empty: not even a header"
    told = f"line 1 is no header of {table.name}: expected {','.join(expected)}; found {first!r}"
    if first.startswith(CONFLICT_MARKERS):
        told += "; that is a version-control conflict marker: the file holds an unresolved merge"
    return told


def _lines(file: Path) -> int:
    with file.open("rb") as raw:
        return sum(1 for _ in raw)
