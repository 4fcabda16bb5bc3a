"""Text cells and what they say: numbers, whole numbers, times; and why a cell is none of them."""

import re
from collections.abc import Sequence
from typing import Any

import polars as pl

from pipelines.spec import Field

EXACT = 2.0**53
"""Up to here a float holds every whole number."""
WORDS = {"number": "a number", "integer": "a whole number"}
PLAIN: dict[str, pl.DataType] = {"number": pl.Float64(), "integer": pl.Int64()}
DIGITS = {"d": r"\d{1,2}", "m": r"\d{1,2}", "y": r"\d{2}", "Y": r"\d{4}", "j": r"\d{1,3}", "f": r"\d{1,9}"}
CLOCK = {"H": r"\d{1,2}", "I": r"\d{1,2}", "M": r"\d{2}", "S": r"\d{2}", "z": r"[+-]\d{2}:?\d{2}"}
NAMES = dict.fromkeys("bBaAp", r"[[:alpha:]]+\.?")
LETTERS = {**DIGITS, **CLOCK, **NAMES, "%": "%", "T": r"\d{1,2}:\d{2}:\d{2}", "F": r"\d{4}-\d{2}-\d{2}"}
DAY = r"^\d{4}-\d{2}-\d{2}$"
OFFSET = r"(?:Z|[+-]\d{2}:?\d{2})$"


def value(field: Field, zone: str = "UTC") -> pl.Expr:
    """The column's text as its type, null where it is none.

    Whole numbers keep all their digits, and `29.0` is one too. A time without an offset is of `zone`, the
    earlier one where clocks go back; it comes out in UTC.
    """
    cell = pl.col(field.name)
    if field.type == "text":
        return cell
    trimmed = cell.str.strip_chars()
    if field.type == "time":
        return pl.coalesce([_time(trimmed, one, zone) for one in field.formats] or [*_rfc3339(trimmed, zone)])
    number = trimmed.cast(pl.Float64, strict=False)
    number = pl.when(number.is_finite()).then(number)
    if field.type == "number":
        return number
    written_as_float = pl.when((number == number.round()) & (number.abs() < EXACT)).then(number)
    return pl.coalesce(trimmed.cast(pl.Int64, strict=False), written_as_float.cast(pl.Int64))


def values(rows: pl.DataFrame, field: Field, zone: str = "UTC") -> pl.Series:
    """`value` of a whole column; it is asked only where a cell is no plain number, which is seldom and dear."""
    cell = rows[field.name]
    if cell.dtype.is_numeric():
        return cell
    if field.type in PLAIN:
        plain = cell.cast(PLAIN[field.type], strict=False)
        if plain.null_count() == cell.null_count() and plain.is_finite().all():
            return plain
    return rows.select(value(field, zone)).to_series()


def fault(field: Field, zone: str = "UTC") -> pl.Expr:
    """Why the cell is no value of its type; null where it is one, or is not there."""
    if field.type == "text":
        return pl.lit(None, pl.String)
    wanted = WORDS.get(field.type) or "a time like " + (" or ".join(field.formats) or "2024-01-31T12:00:00Z")
    cell = pl.col(field.name)
    told = pl.format("{}: {} is not {}", pl.lit(field.name), cell, pl.lit(wanted))
    return pl.when(cell.is_not_null() & value(field, zone).is_null()).then(told)


def as_text(rows: pl.DataFrame) -> pl.DataFrame:
    """Typed cells as the text that reads back as the same values."""
    return rows.select(_text(name, kind) for name, kind in rows.schema.items())


def from_records(records: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows of JSON objects as text cells; a column is there when any row has it."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return pl.DataFrame(
        {name: [record.get(name) for record in records] for name in names}, dict.fromkeys(names, pl.String)
    )


def _text(name: str, kind: pl.DataType) -> pl.Expr:
    cell = pl.col(name)
    if isinstance(kind, pl.Datetime):
        return cell.dt.to_string("%Y-%m-%dT%H:%M:%S%.f" + ("%:z" if kind.time_zone else ""))
    if isinstance(kind, pl.Struct):
        return cell.struct.json_encode()
    if isinstance(kind, (pl.List, pl.Array)):
        return pl.struct(cell).struct.json_encode()
    return cell.cast(pl.String)


def pattern(written: str) -> str:
    """A format of strftime as a regular expression: a year of two digits is no year of four."""
    pieces = re.split(r"%(.)", written)
    plain, letters = pieces[::2], pieces[1::2]
    shapes = [LETTERS.get(letter, ".+") for letter in letters]
    return "^" + "".join(re.escape(text) + shape for text, shape in zip(plain, [*shapes, ""], strict=True)) + "$"


def _time(cell: pl.Expr, written: str, zone: str) -> pl.Expr:
    fits = pl.when(cell.str.contains(pattern(written))).then(cell)
    if "%z" in written:
        return fits.str.to_datetime(written, strict=False, time_unit="us", time_zone="UTC")
    if not any(letter in written for letter in ("%H", "%I", "%T")):
        return _zoned(fits.str.to_date(written, strict=False).cast(pl.Datetime("us")), zone, written)
    return _zoned(fits.str.to_datetime(written, strict=False, time_unit="us"), zone, written)


def _zoned(time: pl.Expr, zone: str, written: str) -> pl.Expr:
    """Into UTC; 69 is 1969, as everywhere but in the parser."""
    if "%y" in written:
        time = pl.when(time.dt.year() == 2069).then(time.dt.offset_by("-100y")).otherwise(time)
    return time.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def _rfc3339(cell: pl.Expr, zone: str) -> tuple[pl.Expr, pl.Expr]:
    """With an offset, and without one; a day alone is its midnight, a blank may stand for the T."""
    whole = pl.when(cell.str.contains(DAY)).then(cell + "T00:00:00").otherwise(cell.str.replace(" ", "T"))
    offset = whole.str.contains(OFFSET)
    utc = whole.str.replace("Z$", "+00:00")
    aware = (
        pl
        .when(offset)
        .then(utc)
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", strict=False, time_unit="us", time_zone="UTC")
    )
    naive = pl.when(~offset).then(whole).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us")
    return aware, _zoned(naive, zone, "")
