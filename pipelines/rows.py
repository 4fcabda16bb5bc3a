"""Between tables and models: assembled rows as columns, and which of them are held out."""

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import NotEnoughData
from pipelines.spec import Columns, Field, HeldOutByTime, UseCase

if TYPE_CHECKING:
    import polars as pl

BUCKETS = 10_000


def held_out(use_case: UseCase, rows: "pl.DataFrame", newest: datetime | None = None) -> NDArray[np.bool_]:
    """Which rows no model may train on, as the use case declares; (n,) bool.

    `newest` is the time of the newest event where these are not all rows.
    """
    rule = use_case.held_out
    if isinstance(rule, HeldOutByTime):
        times = rows[str(use_case.event_time)].to_numpy()
        last = times.max() if newest is None else np.datetime64(newest.replace(tzinfo=None), "us")
        return np.asarray(times > last - np.timedelta64(rule.window))
    return _buckets(use_case.name, rows[use_case.entity]) < int(rule.share * BUCKETS)


def _buckets(name: str, entities: "pl.Series") -> NDArray[np.uint64]:
    """BLAKE2b-64 of `name:entity`, modulo BUCKETS; no byte of it may change, else held-out rows are trained on."""
    begun, digests = hashlib.blake2b(f"{name}:".encode(), digest_size=8).copy, bytearray()
    for text in _texts(entities):
        hashed = begun()
        hashed.update(text)
        digests += hashed.digest()
    return np.frombuffer(digests, ">u8").astype(np.uint64) % BUCKETS


def _texts(entities: "pl.Series") -> list[bytes]:
    """Each as Python writes it; Polars writes whole numbers and text as it does."""
    import polars as pl

    if entities.dtype.is_integer() or entities.dtype == pl.String:
        return entities.cast(pl.String).fill_null("None").cast(pl.Binary).to_list()
    return [str(entity).encode() for entity in entities.to_list()]


def columns_of(use_case: UseCase, rows: "pl.DataFrame") -> Columns:
    """The inputs as arrays: float64 for numbers (null: NaN), object (str or None) for text.

    They are read-only: where nothing is missing they are the rows' own memory, and several parts look at them.
    """
    columns = {field.name: _column(field, rows[field.name]) for field in use_case.inputs}
    for values in columns.values():
        values.flags.writeable = False
    return columns


def _column(field: Field, cells: "pl.Series") -> NDArray[Any]:
    import polars as pl

    if field.type != "text" and cells.dtype.is_numeric():
        return cells.cast(pl.Float64).to_numpy()
    return column(field, cells.to_list())


def column(field: Field, cells: list[Any]) -> NDArray[Any]:
    """One input as an array."""
    if field.type == "text":
        return np.array(cells, object)
    return np.array([np.nan if cell is None else cell for cell in cells], np.float64)


def targets_of(use_case: UseCase, rows: "pl.DataFrame") -> Columns:
    """What the parts learn and what a label reports, float64."""
    names = {part.target for part in use_case.parts} | {use_case.target}
    return {name: rows[name].to_numpy().astype(np.float64) for name in sorted(names)}


def parted(use_case: UseCase, rows: "pl.DataFrame") -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Rows to learn from and rows to judge by; NotEnoughData where too few are left of either."""
    import polars as pl

    where = pl.Series(held_out(use_case, rows))
    learnt, judged = rows.filter(~where), rows.filter(where)
    enough(use_case, learnt.height, judged.height)
    return learnt, judged


def enough(use_case: UseCase, learnt: int, judged: int) -> None:
    """NotEnoughData where too few rows are left of either."""
    if min(learnt, judged) < use_case.gate.minimum_rows:
        raise NotEnoughData(
            f"{use_case.name}: {learnt + judged} complete rows give {learnt} to train on and {judged} held out; "
            f"gate.minimum_rows asks for {use_case.gate.minimum_rows} of each"
        )


def training_rows(use_case: UseCase, rows: "pl.DataFrame") -> "pl.DataFrame":
    """All that is not held out."""
    return parted(use_case, rows)[0]


def requests_of(use_case: UseCase, columns: Columns) -> list[dict[str, Any]]:
    """The rows as the bodies of requests: whole numbers as such, what is missing left out."""
    cells = {field.name: [_cell(field, value) for value in columns[field.name]] for field in use_case.inputs}
    rows = (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _cell(field: Field, value: Any) -> float | int | str | None:
    if field.type == "text" or value is None:
        return None if value is None else str(value)
    if np.isnan(value):
        return None
    return int(value) if field.type == "integer" else float(value)
