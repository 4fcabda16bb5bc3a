"""Calories: how much energy did this exercise burn?

Exercise rows and their labels arrive as two files, minutes apart; both carry `User_ID`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.spec import (
    Columns,
    Field,
    Files,
    Gate,
    Outputs,
    Part,
    RolloutPlan,
    Shadow,
    Slice,
    Stage,
    State,
    Table,
    UseCase,
    matrix,
)

if TYPE_CHECKING:
    import polars as pl

USER = Field(name="User_ID", type="integer", minimum=1, example=14733363, description="Person and session")
INPUTS = (
    Field(name="Gender", type="text", choices=("female", "male"), example="male"),
    Field(name="Age", type="integer", unit="years", minimum=10, maximum=110, example=68),
    Field(name="Height", type="number", unit="cm", minimum=80, maximum=250, example=190.0),
    Field(name="Weight", type="number", unit="kg", minimum=20, maximum=300, example=94.0),
    Field(name="Duration", type="number", unit="min", minimum=0, maximum=600, example=29.0),
    Field(name="Heart_Rate", type="number", unit="bpm", minimum=30, maximum=240, example=105.0),
    Field(name="Body_Temp", type="number", unit="°C", minimum=34, maximum=43, example=40.8),
)
CALORIES = Field(name="Calories", type="number", unit="kcal", minimum=0, maximum=5000, example=231.0)
NUMBERS = ("Age", "Height", "Weight", "Duration", "Heart_Rate", "Body_Temp")


def assemble(tables: Mapping[str, "pl.DataFrame"], as_of: datetime) -> "pl.DataFrame":
    """Join each exercise row to its label; rows whose label is still to come are left out."""
    return tables["exercise"].join(tables["burnt"], on="User_ID", how="inner")


def fit_state(columns: Columns) -> State:
    """The vocabulary of Gender."""
    return {"Gender": sorted(set(columns["Gender"].tolist()))}


def features(columns: Columns, state: State) -> NDArray[np.float32]:
    """Numbers as they are, Gender as 0/1 by the vocabulary's last word, unknown as NaN, and their product.

    Returns float32 (n, 8), in the order of `USE_CASE.feature_names`.
    """
    known = {word: float(place) for place, word in enumerate(state["Gender"])}
    gender = [known.get(word, np.nan) for word in columns["Gender"]]
    return matrix([*(columns[name] for name in NUMBERS), gender, columns["Duration"] * columns["Heart_Rate"]])


def outputs(raw: Mapping[str, NDArray[np.float64]], columns: Columns) -> Outputs:
    """Energy is never negative."""
    return {"calories": np.maximum(raw["energy"], 0.0)}


def labels(burnt: "pl.DataFrame") -> "pl.DataFrame":
    """The label file tells what a session burnt."""
    return burnt.select(entity="User_ID", actual="Calories")


def simulate(seed: int, drop: int) -> Mapping[str, "pl.DataFrame"]:
    """One drop of simulated sessions: 8,000 in the first, 400 in each later one.

    Energy expenditure from heart rate after Keytel et al. (2005), "Prediction of energy expenditure from
    heart rate monitoring during submaximal exercise", J. Sports Sci. 23(3), 289-297, in kJ/min, divided by
    4.184; 1 % multiplicative noise.
    """
    import polars as pl

    random = np.random.default_rng([seed, drop])
    n = 8000 if drop == 0 else 400
    male = random.random(n) < 0.5
    age = np.clip(random.gamma(5.0, 8.5, n), 20, 79).round()
    height = np.where(male, 180.0, 165.0) + random.normal(0, 8, n).round()
    weight = np.round(np.where(male, 24.8, 23.2) * np.square(height / 100) * random.normal(1, 0.08, n))
    duration = random.integers(1, 31, n).astype(float)
    heart = np.clip(np.round(79 + 1.05 * duration + random.normal(0, 5, n)), 67, 140)
    temperature = np.round(41.5 - 4.2 * np.exp(-duration / 9) + random.normal(0, 0.15, n), 1)
    kilojoules = np.where(
        male,
        -55.0969 + 0.6309 * heart + 0.1988 * weight + 0.2017 * age,
        -20.4022 + 0.4472 * heart - 0.1263 * weight + 0.074 * age,
    )
    calories = np.maximum(1.0, np.round(duration * kilojoules / 4.184 * random.normal(1, 0.01, n)))
    users = 10_000_000 + drop * 10_000 + np.arange(n)
    exercise = {
        "User_ID": users,
        "Gender": np.where(male, "male", "female"),
        "Age": age.astype(int),
        "Height": height,
        "Weight": weight,
        "Duration": duration,
        "Heart_Rate": heart,
        "Body_Temp": temperature,
    }
    return {
        "exercise": pl.DataFrame(exercise),
        "burnt": pl.DataFrame({"User_ID": users, "Calories": calories}),
    }


USE_CASE = UseCase(
    name="calories",
    owner="sports-science",
    description="Energy burnt in one exercise session.",
    tables=(
        Table(name="exercise", source=Files(pattern="exercise*.csv"), key=("User_ID",), columns=(USER, *INPUTS)),
        Table(name="burnt", source=Files(pattern="calories*.csv"), key=("User_ID",), columns=(USER, CALORIES)),
    ),
    inputs=INPUTS,
    entity="User_ID",
    target="Calories",
    target_unit="kcal",
    horizon=timedelta(hours=1),
    feature_names=(*NUMBERS, "Gender", "Duration x Heart_Rate"),
    parts=(
        Part(
            name="energy",
            kind="regressor",
            target="Calories",
            parameters={"n_estimators": 600, "max_depth": 4, "learning_rate": 0.08, "subsample": 0.9},
        ),
    ),
    metrics={"rmse": metrics.rmse("calories"), "mae": metrics.mae("calories")},
    slices=(
        Slice(by=("Gender",)),
        Slice(by=("Gender", "Age"), edges={"Age": (30, 45, 60)}),
    ),
    gate=Gate(metric="rmse", at_most=3.0, worse_by_at_most=0.25),
    rollout=RolloutPlan(
        shadow=Shadow(time=timedelta(seconds=30), pairs=200),
        stages=(
            Stage(weight=5, time=timedelta(minutes=1), requests=300),
            Stage(weight=25, time=timedelta(minutes=5), requests=500),
            Stage(weight=50, time=timedelta(minutes=5), requests=500, labels=300),
        ),
        shift_at_most={"calories": 5.0},
    ),
    assemble=assemble,
    fit_state=fit_state,
    features=features,
    outputs=outputs,
    retrain_after_labels=500,
    loss=metrics.squared_error("calories"),
    simulate=simulate,
    labels={"burnt": labels},
)
