"""Bets: how probable are home win, draw and away win, and what does a bet on each return on average?

One row is a football match as football-data.co.uk writes it: odds before, goals and shots after. The model
starts from the bookmaker's own probabilities and learns what to add to them from how both teams did before.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.spec import (
    Calibrated,
    Columns,
    Event,
    Field,
    Files,
    Gate,
    HeldOutByTime,
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

HOME, DRAW, AWAY = 1.0, 0.0, -1.0
"""The result as a number: the sign of home goals minus away goals."""
RESULTS = {"home": HOME, "draw": DRAW, "away": AWAY}
MATCHES = 10
"""How many earlier matches a team's form is the mean of."""
FEWEST = 3
"""Below so many earlier matches a form is not known."""


def _odds(side: str, example: float) -> Field:
    return Field(
        name=f"{side}_odds", type="number", minimum=1.0, maximum=1001, example=example,
        description="Decimal odds: what a stake of 1 gives back when the bet is won",
    )  # fmt: skip


def _form(side: str, what: str, unit: str, least: float, most: float, example: float) -> Field:
    return Field(
        name=f"{side}_{what}", type="number", unit=unit, minimum=least, maximum=most, example=example,
        optional=True, description=f"Mean of the {side} team's last {MATCHES} matches",
    )  # fmt: skip


INPUTS = (
    _odds("home", 1.9),
    _odds("draw", 3.6),
    _odds("away", 4.2),
    *(
        _form(side, *form)
        for side in ("home", "away")
        for form in (
            ("points", "points a match", 0, 3, 1.6),
            ("goals", "goals for minus against", -15, 15, 0.3),
            ("shots", "shots on target for minus against", -40, 40, 0.8),
        )
    ),
)
FORMS = ("points", "goals", "shots")
LOG_ODDS = tuple(f"log_odds_{name}" for name in RESULTS)
FEATURES = (*LOG_ODDS, *(f"{form}_difference" for form in FORMS))


def assemble(tables: Mapping[str, "pl.DataFrame"], as_of: datetime) -> "pl.DataFrame":
    """One row a match, with the form of both teams as it was known the day before."""
    import polars as pl

    matches = tables["matches"].sort("Date", "HomeTeam")
    form = _forms(matches)
    for side in ("home", "away"):
        named = {"team": f"{side.title()}Team"} | {what: f"{side}_{what}" for what in FORMS}
        matches = matches.join(
            form.rename(named), on=["Date", f"{side.title()}Team"], how="left", maintain_order="left"
        )
    played = matches.drop_nulls(["FTHG", "FTAG"]).with_columns(
        match=_match(),
        result=_result(),
        **{f"{name}_odds": pl.col(f"B365{name[0].upper()}") for name in RESULTS},
    )
    happened = {f"is_{name}": (pl.col("result") == result).cast(pl.Float64) for name, result in RESULTS.items()}
    return played.with_columns(**happened)


def _match() -> "pl.Expr":
    """What a request names a match by."""
    import polars as pl

    return pl.format("{} {} - {}", pl.col("Date").dt.strftime("%Y-%m-%d"), "HomeTeam", "AwayTeam")


def _result() -> "pl.Expr":
    import polars as pl

    return (pl.col("FTHG") - pl.col("FTAG")).sign().cast(pl.Float64)


def _forms(matches: "pl.DataFrame") -> "pl.DataFrame":
    """Team, date and the means of its matches before that date."""
    import polars as pl

    def seen_by(team: str, ours: str, theirs: str) -> "pl.DataFrame":
        goals = (pl.col(f"FT{ours}G") - pl.col(f"FT{theirs}G")).cast(pl.Float64)
        shots = (pl.col(f"{ours}ST") - pl.col(f"{theirs}ST")).cast(pl.Float64)
        points = pl.when(goals > 0).then(3.0).when(goals == 0).then(1.0).when(goals < 0).then(0.0)
        return matches.select("Date", team=team, points=points, goals=goals, shots=shots)

    both = pl.concat([seen_by("HomeTeam", "H", "A"), seen_by("AwayTeam", "A", "H")])
    days = both.group_by("team", "Date").agg(pl.col(FORMS).mean()).sort("Date", "team")
    before = [pl.col(what).shift(1).rolling_mean(MATCHES, min_samples=FEWEST).over("team") for what in FORMS]
    return days.with_columns(before)


def fit_state(columns: Columns) -> State:
    """Nothing needs to be learnt."""
    return {}


def chances(columns: Columns) -> NDArray[np.float64]:
    """The bookmaker's probabilities without its margin, (n, 3) in the order of RESULTS; rows add up to 1."""
    inverse = 1 / np.column_stack([columns[f"{name}_odds"] for name in RESULTS])
    return np.asarray(inverse / inverse.sum(axis=1, keepdims=True))


def features(columns: Columns, state: State) -> NDArray[np.float32]:
    """Log odds of each result and the differences of form; unknown form is NaN. float32 (n, 6)."""
    fair = np.clip(chances(columns), 1e-6, 1 - 1e-6)
    forms = [columns[f"home_{what}"] - columns[f"away_{what}"] for what in FORMS]
    return matrix([*(np.log(fair) - np.log1p(-fair)).T, *forms])


def baseline(columns: Columns) -> Outputs:
    """What the odds say without any model."""
    return outputs(dict(zip(RESULTS, chances(columns).T, strict=True)), columns)


def outputs(raw: Mapping[str, NDArray[np.float64]], columns: Columns) -> Outputs:
    """Three probabilities that add up to 1, and the mean return of a stake of 1 at the odds of the request."""
    whole = np.sum([raw[name] for name in RESULTS], axis=0)
    fair = {name: raw[name] / whole for name in RESULTS}
    returns = {f"{name}_return": fair[name] * columns[f"{name}_odds"] - 1 for name in RESULTS}
    return fair | returns


def loss(outputs: Outputs, actual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Negative log likelihood of what happened, in nats; (n,)."""
    said = np.select([actual == result for result in RESULTS.values()], [outputs[name] for name in RESULTS])
    return np.asarray(-np.log(np.clip(said, 1e-15, 1)))


def labels(matches: "pl.DataFrame") -> "pl.DataFrame":
    """A match that was played tells its result."""
    return matches.select(entity=_match(), actual=_result()).drop_nulls("actual")


def _whole(name: str, most: float, *, optional: bool = False) -> Field:
    return Field(name=name, type="integer", minimum=0, maximum=most, optional=optional, example=1)


def _text(name: str, example: str, *, optional: bool = False) -> Field:
    return Field(name=name, type="text", example=example, optional=optional)


MATCHES_TABLE = Table(
    name="matches",
    source=Files(pattern="E0_*.csv"),
    key=("Date", "HomeTeam", "AwayTeam"),
    columns=(
        Field(name="Date", type="time", formats=("%d/%m/%y", "%d/%m/%Y"), example="2023-08-11T00:00:00Z"),
        _text("HomeTeam", "Burnley"),
        _text("AwayTeam", "Man City"),
        _whole("FTHG", 20, optional=True),
        _whole("FTAG", 20, optional=True),
        _whole("HST", 60, optional=True),
        _whole("AST", 60, optional=True),
        *(Field(name=f"B365{side}", type="number", minimum=1, maximum=1001, example=2.0) for side in "HDA"),
    ),
)
GENTLE: dict[str, float | int | str] = {
    "n_estimators": 40,
    "max_depth": 2,
    "learning_rate": 0.03,
    "min_child_weight": 40,
    "reg_lambda": 50,
    "subsample": 0.8,
}
"""The odds know nearly everything: what is added to them must be little."""


def _happened(result: float) -> Event:
    return lambda actual: (actual == result).astype(np.float64)


HAPPENED = {name: _happened(result) for name, result in RESULTS.items()}

USE_CASE = UseCase(
    name="bets",
    owner="trading",
    description="Probability of home win, draw and away win, and the mean return of a bet on each.",
    tables=(MATCHES_TABLE,),
    inputs=INPUTS,
    entity="match",
    target="result",
    target_unit="1 home, 0 draw, -1 away",
    event_time="Date",
    horizon=timedelta(days=3),
    feature_names=FEATURES,
    parts=tuple(
        Part(
            name=name,
            kind="classifier",
            target=f"is_{name}",
            base=f"log_odds_{name}",
            calibration="temperature",
            parameters=GENTLE,
        )
        for name in RESULTS
    ),
    metrics={
        "log_loss": metrics.mean(loss),
        "home_brier": metrics.brier("home", HAPPENED["home"]),
        "home_ece": metrics.ece("home", HAPPENED["home"]),
        "home_auc": metrics.auc("home", HAPPENED["home"]),
    },
    gate=Gate(metric="log_loss", at_most=1.05, worse_by_at_most=0.005, worse_than_baseline_by_at_most=0.01),
    rollout=RolloutPlan(
        shadow=Shadow(share=1.0, time=timedelta(hours=1), pairs=50),
        stages=(
            Stage(weight=10, time=timedelta(hours=1), requests=50),
            Stage(weight=25, time=timedelta(days=1), requests=100),
            Stage(weight=50, time=timedelta(days=7), requests=200, labels=200),
        ),
        errors_worse_by_at_most=0.05,
        loss_worse_by_at_most=0.02,
        shift_at_most=dict.fromkeys(HAPPENED, 0.05),
        miscalibrated_by_at_most=0.1,
        patience=timedelta(days=60),
        watch=timedelta(days=7),
    ),
    calibrated=tuple(Calibrated(output=name, event=event) for name, event in HAPPENED.items()),
    slices=(Slice(by=("home_odds",), edges={"home_odds": (1.5, 2.0, 3.0)}),),
    held_out=HeldOutByTime(window=timedelta(days=365)),
    assemble=assemble,
    fit_state=fit_state,
    features=features,
    outputs=outputs,
    baseline=baseline,
    loss=loss,
    labels={"matches": labels},
)
