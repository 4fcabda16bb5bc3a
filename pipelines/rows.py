"""Between tables and models: assembled rows as columns, and which of them are held out."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import NotEnoughData
from pipelines.spec import Columns, Field, HeldOutByTime, UseCase

if TYPE_CHECKING:
    import polars as pl

BUCKETS = 10_000


def held_out(use_case: UseCase, rows: "pl.DataFrame") -> NDArray[np.bool_]:
    """Which rows no model may train on, as the use case declares; (n,) bool."""
    rule = use_case.held_out
    if isinstance(rule, HeldOutByTime):
        times = rows[str(use_case.event_time)].to_numpy()
        return np.asarray(times > times.max() - np.timedelta64(rule.window))
    border = int(rule.share * BUCKETS)
    buckets = [_bucket(f"{use_case.name}:{entity}") for entity in rows[use_case.entity]]
    return np.array(buckets, np.int64) < border


def _bucket(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % BUCKETS


def columns_of(use_case: UseCase, rows: "pl.DataFrame") -> Columns:
    """The inputs as arrays: float64 for numbers (null: NaN), object (str or None) for text."""
    return {field.name: column(field, rows[field.name].to_list()) for field in use_case.inputs}


def column(field: Field, cells: list[Any]) -> NDArray[Any]:
    """One input as an array."""
    if field.type == "text":
        return np.array(cells, object)
    return np.array([np.nan if cell is None else cell for cell in cells], np.float64)


def targets_of(use_case: UseCase, rows: "pl.DataFrame") -> Columns:
    """What the parts learn and what a label reports, float64."""
    names = {part.target for part in use_case.parts} | {use_case.target}
    return {name: rows[name].to_numpy().astype(np.float64) for name in sorted(names)}


def training_rows(use_case: UseCase, rows: "pl.DataFrame") -> "pl.DataFrame":
    """All that is not held out; NotEnoughData where nothing is left to learn from or to judge by."""
    kept = rows.filter(~held_out(use_case, rows))
    judged = rows.height - kept.height
    if judged < use_case.gate.minimum_rows or kept.height < use_case.gate.minimum_rows:
        raise NotEnoughData(
            f"{use_case.name}: {rows.height} complete rows give {kept.height} to train on and {judged} held "
            f"out; gate.minimum_rows asks for {use_case.gate.minimum_rows} of each"
        )
    return kept


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
