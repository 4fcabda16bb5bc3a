"""Wide: twenty numbers and a target that follows from ten of them, for the legs about training."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.spec import Columns, Field, Files, Gate, Outputs, Part, State, Table, UseCase, matrix

if TYPE_CHECKING:
    import polars as pl

NAMES = tuple(f"x{place:02}" for place in range(20))
INPUTS = tuple(Field(name=name, type="number", example=0.5) for name in NAMES)


def assemble(tables: Mapping[str, "pl.DataFrame"], as_of: datetime) -> "pl.DataFrame":
    """The rows as they are."""
    return tables["rows"]


def fit_state(columns: Columns) -> State:
    """Nothing needs to be learnt."""
    return {}


def features(columns: Columns, state: State) -> NDArray[np.float32]:
    """The numbers as they are, float32 (n, 20)."""
    return matrix([columns[name] for name in NAMES])


def outputs(raw: Mapping[str, NDArray[np.float64]], columns: Columns) -> Outputs:
    """The model's answer."""
    return {"y": raw["sum"]}


USE_CASE = UseCase(
    name="wide",
    owner="benchmarks",
    description="Twenty numbers.",
    tables=(
        Table(
            name="rows",
            source=Files(pattern="rows*.csv"),
            key=("id",),
            columns=(
                Field(name="id", type="integer", example=1),
                *INPUTS,
                Field(name="y", type="number", example=1.0),
            ),
        ),
    ),
    inputs=INPUTS,
    entity="id",
    target="y",
    horizon=timedelta(hours=1),
    feature_names=NAMES,
    parts=(Part(name="sum", kind="regressor", target="y"),),
    metrics={"rmse": metrics.rmse("y"), "mae": metrics.mae("y")},
    gate=Gate(metric="rmse", at_most=10.0, worse_by_at_most=1.0),
    in_pieces=True,
    assemble=assemble,
    fit_state=fit_state,
    features=features,
    outputs=outputs,
    loss=metrics.squared_error("y"),
)
