"""JSON Lines: one object a line, every value as the text that stands there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from pipelines import cells
from pipelines.adapters.plain_text import TooLong, cut, ends, lines, slice_of
from pipelines.spec import Table
from pipelines.tools import Content, Cut, Piece, Torn, Unreadable


def pieces(file: Path, table: Table, since: tuple[int, int], *, settled: bool) -> Cut | Unreadable:
    """Whole lines from an offset and row on, cut into batches."""
    try:
        return _cut(file, since[0], since[1], settled=settled)
    except TooLong as wrong:
        return Unreadable(f"not a JSON Lines table: {wrong}", 0)


def _cut(file: Path, start: int, first: int, *, settled: bool) -> Cut:
    """A record is a line; a byte that no JSON holds marks no block as another kind."""
    return cut(file, ends(file, start, lambda at: lines(file, at), b"\0"), start, first, settled=settled)


def read(file: Path, table: Table, piece: Piece | None) -> Content | Unreadable:
    """The rows of one piece (None: of the whole file); lines that are no object apart."""
    found = _content(file, piece or Piece(0, file.stat().st_size, 1, 0))
    if not {column.name for column in table.columns} & set(found.rows.columns):
        return Unreadable(f"no line has a column of {table.name}", 0)
    return found


def _content(file: Path, piece: Piece) -> Content:
    found = list(_lines(file, piece))
    rows = cells.from_records([record for _, record in found if isinstance(record, dict)])
    places = pl.Series("_row", [place for place, record in found if isinstance(record, dict)], pl.Int64)
    return Content.of(rows.with_columns(places), (line for _, line in found if isinstance(line, Torn)))


def _lines(file: Path, piece: Piece) -> Iterator[tuple[int, dict[str, str | None] | Torn]]:
    """Each line's position with its object, or what is wrong with it."""
    lines = slice_of(file, piece.start, piece.stop).removesuffix(b"\n").split(b"\n")
    for place, line in enumerate(lines, piece.first):
        try:
            yield place, _object(line)
        except ValueError as wrong:
            yield place, Torn(place, f"the line is no JSON object: {wrong}", line.decode(errors="replace"))


def head(file: Path) -> pl.DataFrame:
    """The rows of the first batch."""
    first = _cut(file, 0, 1, settled=True).pieces
    return cells.from_records([found for _, found in _lines(file, first[0]) if isinstance(found, dict)])


class _NoObject(ValueError):
    """A line that is JSON, but no object."""


def _object(line: bytes) -> dict[str, str | None]:
    found = json.loads(line.decode("utf-8-sig"), parse_float=str, parse_int=str, parse_constant=str)
    if not isinstance(found, dict):
        raise _NoObject(f"it is {type(found).__name__}")
    return {name: _text(value) for name, value in found.items() if name.strip()}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
