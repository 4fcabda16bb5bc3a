"""Darts: how far from the middle does a throw land?"""

from datetime import timedelta

import numpy as np

from pipelines import metrics
from pipelines.spec import Field, Files, Gate, Part, Table, UseCase
from touchline_darts.board import RADIUS

THROW = Field(name="throw", type="integer", example=1)
DISTANCE = Field(name="distance", type="number", unit="m", minimum=1, maximum=4, example=2.37)
TIRED = Field(name="tired", type="number", minimum=0, maximum=1, example=0.2)


def assemble(tables, as_of):
    return tables["throws"]


def fit_state(columns):
    return {}


def features(columns, state):
    return np.column_stack([columns["distance"], columns["tired"]]).astype(np.float32)


def outputs(raw, columns):
    return {"off": np.clip(raw["off"], 0, RADIUS)}


USE_CASE = UseCase(
    name="darts",
    owner="club",
    description="Distance from the middle of the board.",
    tables=(
        Table(
            name="throws",
            source=Files(pattern="*.csv"),
            key=("throw",),
            columns=(THROW, DISTANCE, TIRED, Field(name="off", type="number", unit="mm", example=30.0)),
        ),
    ),
    inputs=(DISTANCE, TIRED),
    entity="throw",
    target="off",
    target_unit="mm",
    horizon=timedelta(minutes=5),
    feature_names=("distance", "tired"),
    parts=(Part(name="off", kind="regressor", target="off", parameters={"n_estimators": 60}),),
    metrics={"mae": metrics.mae("off")},
    gate=Gate(metric="mae", at_most=20.0, worse_by_at_most=1.0),
    assemble=assemble,
    fit_state=fit_state,
    features=features,
    outputs=outputs,
    loss=metrics.squared_error("off"),
)
