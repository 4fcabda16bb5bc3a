"""Bets again, from files of its own, with a rollout that takes seconds; the tests mix up its two teams."""

from datetime import timedelta

from pipelines.spec import Columns, Files, Gate, RolloutPlan, Shadow, Stage, State
from pipelines.use_cases import bets

MIXED_UP = True
"""Whether features take the home team's odds and form for the away team's."""
SECOND = timedelta(seconds=1)
QUICK = {"time": 2 * SECOND, "requests": 40}
SIDES = {"home": "away", "away": "home"}


def features(columns: Columns, state: State):
    """Those of bets."""
    return bets.features({_other(name): values for name, values in columns.items()}, state)


def _other(name: str) -> str:
    side, _, what = name.partition("_")
    return f"{SIDES.get(side, side)}_{what}" if MIXED_UP else name


USE_CASE = bets.USE_CASE.model_copy(
    update={
        "name": "derby",
        "tables": (bets.MATCHES_TABLE.model_copy(update={"source": Files(pattern="derby_*.csv")}),),
        "features": features,
        "gate": Gate(metric="log_loss", at_most=10, worse_by_at_most=10),
        "horizon": 30 * SECOND,
        "rollout": RolloutPlan(
            shadow=Shadow(share=1.0, time=SECOND, pairs=50),
            stages=(Stage(weight=10, **QUICK), Stage(weight=50, labels=100, **QUICK)),
            cap=100,
            errors_worse_by_at_most=0.2,
            loss_worse_by_at_most=0.02,
            miscalibrated_by_at_most=0.2,
            patience=timedelta(hours=1),
            watch=5 * SECOND,
        ),
    }
)
