"""Reads landed files of every kind; which kind it is, the bytes say, not the name."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import polars as pl
import pyarrow as pa

from pipelines.adapters import csv_file, jsonl_file, parquet_file
from pipelines.adapters.plain_text import NotPlain, TooLong, goes_on, plain, unreadable
from pipelines.errors import BadSettings
from pipelines.spec import Table
from pipelines.tools import Content, Cut, Piece, Unreadable


class Readers:
    """`Reader` of CSV, JSON Lines (each also compressed with gzip) and Parquet."""

    def cut(self, landed: Path, table: Table, since: tuple[int, int], *, settled: bool) -> Cut | Unreadable:
        """Where the batches begin and end; the file is read once and never held whole."""
        try:
            file, kind = _known(landed)
            found: Cut | Unreadable = kind.pieces(file, table, since, settled=settled)
        except NotPlain as wrong:
            return unreadable(landed, str(wrong), unfinished=wrong.unfinished)
        if isinstance(found, Unreadable):
            return unreadable(landed, found.reason, unfinished=found.unfinished or not landed.stat().st_size)
        return found

    def read(self, landed: Path, table: Table, piece: Piece | None) -> Content | Unreadable:
        """The rows of one piece; None: of the whole file."""
        try:
            file, kind = _known(landed)
            found: Content | Unreadable = kind.read(file, table, piece)
        except NotPlain as wrong:
            return unreadable(landed, str(wrong))
        if isinstance(found, Unreadable):
            return unreadable(landed, found.reason)
        read = len(found.rows) + len(found.torn)
        if piece is not None and read != piece.rows:
            return Unreadable(f"its line ends are mixed: {piece.rows} lines read as {read} rows", piece.rows)
        return found

    def goes_on(self, old: Path, new: Path, at: int) -> int | None:
        """The offset behind the rows that are known, when the new file is the old one and more."""
        try:
            (before, one), (after, other) = _known(old), _known(new)
        except (NotPlain, FileNotFoundError):
            return None
        return goes_on(before, after, at) if one is other and one is not parquet_file else None


def rows_of(file: Path) -> pl.DataFrame:
    """The first rows of any file as text cells, without a declared table: to draft one.

    At most one batch of them; BadSettings where the file is no table.
    """
    with TemporaryDirectory(prefix="touchline-look-") as made:
        copy = Path(shutil.copyfile(file, Path(made) / "file"))
        try:
            plain_file, kind = _known(copy)
            found: pl.DataFrame = kind.head(plain_file)
        except (NotPlain, TooLong, pa.ArrowInvalid) as wrong:
            raise BadSettings(f"{file} is no table: {wrong}") from wrong
    return found


def _known(landed: Path) -> tuple[Path, ModuleType]:
    with landed.open("rb") as raw:
        if raw.read(4) == parquet_file.MAGIC:
            return landed, parquet_file
    file = plain(landed)
    with file.open("rb") as raw:
        first = raw.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return file, jsonl_file if first.startswith(b"{") else csv_file
