"""The declarative description of one use case: data its owner can read, plus a few plain functions."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as field_of

if TYPE_CHECKING:
    from polars import DataFrame
else:
    DataFrame = Any  # a place serves without Polars

Columns = Mapping[str, NDArray[Any]]
"""Equally long 1-d arrays by name: float64 for numbers and integers, object (str) for text."""
Outputs = Mapping[str, NDArray[np.float64]]
"""What a release answers, by name; each array is (n,)."""
State = dict[str, Any]
"""What `fit_state` learnt: JSON and nothing else."""
Loss = Callable[[Outputs, NDArray[np.float64]], NDArray[np.float64]]
Metric = Callable[[Outputs, NDArray[np.float64]], float]
Assemble = Callable[[Mapping[str, DataFrame], datetime], DataFrame]
Simulate = Callable[[int, int], Mapping[str, DataFrame]]

NAME = r"^[a-z][a-z0-9_]{1,30}$"


class Frozen(BaseModel):
    """Immutable, strict data: an unknown key is an error that names its path."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Field(Frozen):
    """One column of a table, or one input of a request.

    `minimum` and `maximum` bound what is valid at all (a request outside is refused);
    the range seen in training is learnt, and a request outside of it is answered with a warning.
    """

    name: str = field_of(min_length=1)
    type: Literal["number", "integer", "text"]
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    optional: bool = False
    example: float | int | str
    description: str = ""


class Table(Frozen):
    """Rows of one kind; each source fills one table."""

    name: str = field_of(pattern=NAME)
    files: str
    """Glob over file names, for sources that are folders."""
    key: tuple[str, ...] = field_of(min_length=1)
    columns: tuple[Field, ...] = field_of(min_length=1)
    max_age: timedelta = timedelta(days=2)
    """How old the newest arrival may be before the suite's freshness rule says so."""

    @model_validator(mode="after")
    def _key_is_declared(self) -> "Table":
        missing = set(self.key) - {column.name for column in self.columns}
        if missing:
            raise ValueError(f"table {self.name}: key {sorted(missing)} is not among the columns")
        return self


class Part(Frozen):
    """One model of a release, trained through scikit-learn's interface, served as ONNX."""

    name: str = field_of(pattern=NAME)
    kind: Literal["regressor", "classifier"]
    target: str
    """Column of the assembled rows that this part learns."""
    parameters: dict[str, float | int | str] = {}


class Gate(Frozen):
    """When a candidate is good enough: an absolute floor, and not worse than the champion."""

    metric: str
    at_most: float
    worse_by_at_most: float = field_of(ge=0)
    """Declared margin: the upper end of the paired interval of (candidate - champion) stays below."""
    confidence: float = field_of(default=0.95, gt=0.5, lt=1)
    resamples: int = field_of(default=1000, ge=100)
    minimum_rows: int = field_of(default=100, ge=2)


class Serving(Frozen):
    """Limits of the endpoint."""

    batch_limit: int = field_of(default=1000, ge=1, le=10_000)
    body_limit: int = field_of(default=262_144 - 16_384, ge=1024, le=262_144 - 16_384)
    """Bytes; below the proxy's buffer, because a retry needs the whole body."""
    time_limit: timedelta = timedelta(seconds=2)


class UseCase(Frozen):
    """Everything that the platform knows about one prediction product.

    `assemble(tables, as_of)` joins tables to training rows, one row per event, nothing newer than the event.
    `fit_state(columns)` learns vocabularies and medians; JSON. `features(columns, state)` gives float32
    (n, len(feature_names)); it is the only feature code, offline and online. `outputs(raw)` turns the
    parts' raw answers ((n,) each: value, or probability of the positive class) into named outputs.
    `loss(outputs, actual)` gives (n,). `simulate(seed, drop)` gives the tables of one simulated drop.
    """

    name: str = field_of(pattern=NAME)
    owner: str
    description: str
    tables: tuple[Table, ...] = field_of(min_length=1)
    inputs: tuple[Field, ...] = field_of(min_length=1)
    entity: str
    """Column of the assembled rows: its hash decides what is held out; also the key of a request."""
    target: str
    """Column of the assembled rows that a label reports."""
    target_unit: str = ""
    horizon: timedelta
    """How long a label may take."""
    feature_names: tuple[str, ...] = field_of(min_length=1)
    parts: tuple[Part, ...] = field_of(min_length=1)
    metrics: dict[str, Metric]
    gate: Gate
    serving: Serving = Serving()
    held_out_share: float = field_of(default=0.2, gt=0, lt=1)
    seed: int = 0
    parity: float = field_of(default=1e-4, gt=0)
    """Largest relative difference allowed between an answer of the bento and of the offline model."""
    ingest_schedule: str = "*/15 * * * *"
    retrain_schedule: str = "15 2 * * *"
    assemble: Assemble
    fit_state: Callable[[Columns], State]
    features: Callable[[Columns, State], NDArray[np.float32]]
    outputs: Callable[[Mapping[str, NDArray[np.float64]]], Outputs]
    loss: Loss
    simulate: Simulate | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "UseCase":
        if self.gate.metric not in self.metrics:
            raise ValueError(f"gate.metric: {self.gate.metric!r} is not among metrics {sorted(self.metrics)}")
        for what, names in (
            ("tables", [table.name for table in self.tables]),
            ("parts", [part.name for part in self.parts]),
            ("inputs", [field.name for field in self.inputs]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: a name is used twice: {names}")
        reserved = {"prediction_id", "event_time", self.entity} & {field.name for field in self.inputs}
        if reserved:
            raise ValueError(f"inputs: {sorted(reserved)} are keys of a request, not inputs")
        return self

    def table(self, name: str) -> Table:
        """The table of that name; KeyError when there is none."""
        return {table.name: table for table in self.tables}[name]
