"""CSV: columns by name, every cell as text or null; delimiter and line ends as found."""

import csv as words
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import csv

from pipelines.adapters.plain_text import LONGEST, TooLong, cut, ends, lines, slice_of
from pipelines.spec import Table
from pipelines.tools import Content, Cut, Piece, Torn, Unreadable

CONFLICT_MARKERS = ("<<<<<<<", "=======", ">>>>>>>")
DELIMITERS = ",;\t|"
BOM = "\ufeff"
NUMBERS = {"number": pa.float64(), "integer": pa.int64()}


class Header(NamedTuple):
    """The first record."""

    names: tuple[str, ...]
    delimiter: str
    size: int
    """Where the rows begin."""
    finished: bool


def header(file: Path, expected: tuple[str, ...] = ()) -> Header:
    """The first record, split by the delimiter that gives most expected names, then most names at all."""
    record = next(records(file, 0, ""), b"")
    text = record.decode(errors="replace").removeprefix(BOM).rstrip("\r\n")
    split = {each: tuple(_split(text, each)) for each in DELIMITERS}
    best = max(DELIMITERS, key=lambda each: (len(set(expected) & set(split[each])), len(split[each])))
    return Header(split[best], best, len(record), record.endswith(b"\n"))


def _split(text: str, delimiter: str) -> Iterator[str]:
    """Names without blanks around them; one that is empty, or stood before, gets its number."""
    seen: set[str] = set()
    for place, raw in enumerate(next(words.reader([text], delimiter=delimiter), []), 1):
        name = raw.strip()
        seen_before = name in seen or not name
        seen.add(name)
        yield f"{name or 'column'} {place}" if seen_before else name


def fault(found: Header, table: Table) -> str | None:
    """Why the first record is no header of that table."""
    expected = [column.name for column in table.columns]
    if set(expected) & set(found.names):
        return _stands_twice(found, expected)
    first = found.delimiter.join(found.names)[:80]
    if not found.size:
        return "the file is empty: not even a header"
    told = f"line 1 is no header of {table.name}: expected {','.join(expected)}; found {first!r}"
    if first.startswith(CONFLICT_MARKERS):
        told += "; that is a version-control conflict marker: the file holds an unresolved merge"
    return told


def _stands_twice(found: Header, expected: list[str]) -> str | None:
    for place, name in enumerate(found.names, 1):
        if name.endswith(f" {place}") and name.removesuffix(f" {place}") in expected:
            return f"the header names {name.removesuffix(f' {place}')} twice"
    return None


def pieces(file: Path, table: Table, since: tuple[int, int], *, settled: bool) -> Cut | Unreadable:
    """Whole records from an offset and row on, cut into batches."""
    try:
        found = header(file, tuple(column.name for column in table.columns))
        if not found.finished and not settled:
            return Cut((), whole=False)
        why = fault(found, table)
        if why is not None:
            return Unreadable(why, 0)
        start, first = since if since[0] else (found.size, 1)
        return _cut(file, start, first, found.delimiter, settled=settled)
    except TooLong as wrong:
        return Unreadable(f"not a CSV table: {wrong}", 0)


def _cut(file: Path, start: int, first: int, delimiter: str, *, settled: bool) -> Cut:
    """Where there is no quote a record is a line."""
    return cut(
        file, ends(file, start, lambda at: records(file, at, delimiter), b'"'), start, first, settled=settled
    )


def records(file: Path, start: int, delimiter: str) -> Iterator[bytes]:
    """Lines, those joined that a quoted cell spans; TooLong where a quote is never closed."""
    cuts = tuple((each + '"').encode() for each in delimiter or DELIMITERS)
    held: list[bytes] = []
    size, is_open = 0, False
    for line in lines(file, start):
        is_open = _open_after(line, cuts, is_open=is_open)
        if not is_open and not held:
            yield line
            continue
        held.append(line)
        size += len(line)
        if size > LONGEST:
            raise TooLong(f"a quote is not closed within {LONGEST // 2**20} MB: {held[0][:60]!r}")
        if not is_open:
            yield b"".join(held)
            held, size = [], 0
    if held and held[-1].endswith(b"\n"):
        raise TooLong(f"a quote is not closed by the end of the file: {held[0][:60]!r}")
    if held:
        yield b"".join(held)


def _open_after(line: bytes, cuts: tuple[bytes, ...], *, is_open: bool) -> bool:
    """Whether a quoted cell goes on behind this line; a quote inside a bare cell is a letter."""
    if b'"' not in line:
        return is_open
    place = 0
    if not is_open and line.startswith(b'"'):
        place, is_open = 1, True
    while True:
        if is_open:
            place = line.find(b'"', place) + 1
            if not place:
                return True
            if line[place : place + 1] == b'"':
                place += 1
                continue
        starts = [found for each in cuts if (found := line.find(each, place)) >= 0]
        if not starts:
            return False
        place, is_open = min(starts) + 2, True


def read(file: Path, table: Table, piece: Piece | None) -> Content | Unreadable:
    """The rows of one piece (None: of the whole file); lines with too few or too many cells apart."""
    found = header(file, tuple(column.name for column in table.columns))
    why = fault(found, table)
    if why is not None:
        return Unreadable(why, 0)
    piece = piece or Piece(found.size, file.stat().st_size, 1, 0)
    body = slice_of(file, piece.start, piece.stop)
    numbers = _numbers(body, found, table)
    if numbers is not None:
        return Content(_placed(numbers, piece), lambda: _placed(_text(file, found, piece), piece))
    torn: list[Torn] = []
    try:
        cells = _cells(body, found, piece, torn)
    except (pa.ArrowInvalid, UnicodeDecodeError) as wrong:
        return Unreadable(f"not a CSV table: {wrong}", 0)
    return Content.of(_placed(cells, piece, torn), torn)


def _placed(cells: pl.DataFrame, piece: Piece, torn: Sequence[Torn] = ()) -> pl.DataFrame:
    """With each row's position; those of torn lines are left out."""
    whole = np.arange(piece.first, piece.first + len(cells) + len(torn))
    places = np.delete(whole, [one.row - piece.first for one in torn])
    return cells.with_columns(pl.Series("_row", places, pl.Int64))


def _numbers(body: bytes, found: Header, table: Table) -> pl.DataFrame | None:
    """Declared columns, those of numbers as such; None where a line is torn or a cell is no plain number.

    What Arrow reads as a number is the same number in `cells.value`, but for 0x1F (a whole number to Arrow) and
    for what is not finite: such a piece is read as text, as one is where Arrow finds no number.
    """
    kinds = {
        column.name: NUMBERS.get(column.type, pa.string())
        for column in table.columns
        if column.name in found.names
    }
    if any(x in body and b"0" + x in body for x in (b"x", b"X")):  # one letter is found ten times as fast as two
        return None
    try:
        rows = pl.DataFrame(pl.from_arrow(_parse(body, found, kinds)))
    except pa.ArrowInvalid:
        return None
    sums = (cells.sum() for cells in rows.iter_columns() if cells.dtype.is_float())
    return rows if all(map(isfinite, sums)) else None


def head(file: Path) -> pl.DataFrame:
    """The rows of the first batch, by whatever header there is."""
    found = header(file)
    first = next(iter(_cut(file, found.size, 1, found.delimiter, settled=True).pieces), Piece(0, 0, 1, 0))
    return _text(file, found, first)


def _text(file: Path, found: Header, piece: Piece) -> pl.DataFrame:
    """The cells of a piece as they came; they are seldom asked for, and nothing holds their bytes until then."""
    return _cells(slice_of(file, piece.start, piece.stop), found, piece, [])


def _cells(body: bytes, found: Header, piece: Piece, torn: list[Torn]) -> pl.DataFrame:
    """Every cell as text; lines with too few or too many go to `torn`."""

    def set_aside(row: csv.InvalidRow) -> str:
        why = f"the line has {row.actual_columns} cells, the header {row.expected_columns}"
        torn.append(Torn(piece.first + row.number - 1, why, row.text))
        return "skip"

    return pl.DataFrame(pl.from_arrow(_parse(body, found, dict.fromkeys(found.names, pa.string()), set_aside)))


def _parse(
    body: bytes, found: Header, kinds: dict[str, pa.DataType], set_aside: "csv.InvalidRowHandler | None" = None
) -> pa.Table:
    """Columns in these types; ArrowInvalid where a cell is none, or a line is torn and nothing sets it aside."""
    if not body:
        return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
    return csv.read_csv(
        pa.BufferReader(body),
        read_options=csv.ReadOptions(
            use_threads=False, column_names=list(found.names), block_size=max(len(body) + 1, 2**16)
        ),
        parse_options=csv.ParseOptions(
            delimiter=found.delimiter,
            invalid_row_handler=set_aside,
            ignore_empty_lines=False,
            newlines_in_values=True,
        ),
        convert_options=csv.ConvertOptions(
            column_types=kinds,
            include_columns=list(kinds),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    )
