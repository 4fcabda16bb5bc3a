"""Hashes of typed cells: 128 bits that two rows share when they hold the same values, however those were written.

A cell is a word of 64 bits: a number's or a time's own bits, XXH3 of a text. A row is its words, and behind them
which of its cells are null; its hash is XXH3 of that under two seeds. It is the same on every machine and with
every version of the libraries. XXH3 is not cryptographic: it tells apart what differs by chance, not what was
forged.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines import lake
from pipelines.spec import Field

if TYPE_CHECKING:
    import polars as pl

Hashes = NDArray[np.uint64]
"""(n, 2): both halves of each row's hash."""
SEEDS = (1, 2)
WORD = 64
AT_ONCE = 50_000
"""Rows whose words are in memory at the same time."""
DIGITS = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)
"""Two hexadecimal digits of each byte; so they are written faster than a byte after the other."""


def hashes(rows: "pl.DataFrame", columns: Sequence[Field]) -> Hashes:
    """Of each row's cells in these columns, in this order; a column that the rows do not have is null in all."""
    found = np.empty((rows.height, 2), np.uint64)
    for at in range(0, rows.height, AT_ONCE):
        found[at : at + AT_ONCE] = _hashes(rows.slice(at, AT_ONCE), columns)
    return found


def _hashes(rows: "pl.DataFrame", columns: Sequence[Field]) -> Hashes:
    import polars as pl
    import polars_hash

    words = [_words(rows, column) for column in columns]
    nulls = [_nulls(rows, columns[at : at + WORD]) for at in range(0, len(columns) or 1, WORD)]
    row = polars_hash.col("row").nchash
    halves = [row.xxh3_64(seed=seed).alias(f"{seed}") for seed in SEEDS]
    turned = np.ascontiguousarray(np.stack([*words, *nulls]).T)  # in half the time of `stack` along the last axis
    return pl.DataFrame({"row": _binary(turned)}).select(halves).to_numpy()


def text(found: Hashes) -> "pl.Series":
    """As a table writes them: 32 hexadecimal digits each."""
    import polars as pl
    import pyarrow as pa

    digits = DIGITS[found.astype(">u8").view(np.uint8)]
    ends = np.arange(0, digits.nbytes + 1, 32)
    return pl.Series(pa.LargeStringArray.from_buffers(len(found), pa.py_buffer(ends), pa.py_buffer(digits)))


def _words(rows: "pl.DataFrame", column: Field) -> NDArray[np.uint64]:
    """A word a cell; minus zero is zero, and a null is 0, as other cells are."""
    import polars as pl
    import polars_hash

    if column.name not in rows.columns:
        return np.zeros(rows.height, "<u8")
    cells = rows[column.name].cast(lake.dtype(column), strict=False)
    if cells.dtype == pl.String:
        hashed = cells.to_frame("cell").select(polars_hash.col("cell").nchash.xxh3_64().fill_null(0))
        return hashed.to_series().to_numpy()
    if cells.dtype.is_float():
        return (cells.fill_null(0.0).to_numpy() + 0.0).view(np.uint64)
    return cells.to_physical().fill_null(0).to_numpy().view(np.uint64)


def _nulls(rows: "pl.DataFrame", columns: Sequence[Field]) -> NDArray[np.uint64]:
    """A bit a cell that is null, of at most `WORD` columns."""
    told = np.zeros(rows.height, "<u8")
    for place, column in enumerate(columns):
        if column.name not in rows.columns:
            told |= np.uint64(1 << place)
        elif (cells := rows[column.name].cast(lake.dtype(column), strict=False)).null_count():
            told |= cells.is_null().to_numpy().astype(np.uint64) << np.uint64(place)
    return told


def _binary(rows: NDArray[np.uint64]) -> "pl.Series":
    """Each row's bytes as one cell."""
    import polars as pl
    import pyarrow as pa

    whole = np.ascontiguousarray(rows)
    width = whole.shape[1] * whole.itemsize
    return pl.Series(
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(whole), [None, pa.py_buffer(whole)])
    )
