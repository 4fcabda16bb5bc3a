"""Bets again, from files of its own, with a rollout that takes seconds; the tests blind it."""

from datetime import timedelta

import numpy as np

from pipelines.spec import Columns, Files, Gate, RolloutPlan, Shadow, Stage, State
from pipelines.use_cases import bets

SEED = 0
BLIND = True
"""Whether features hold the same odds for every match, and no form: calibrated still, but without a clue."""
AVERAGE = {"home_odds": 2.1, "draw_odds": 3.5, "away_odds": 3.6}
SECOND = timedelta(seconds=1)
QUICK = {"time": 2 * SECOND, "requests": 40}


def features(columns: Columns, state: State):
    """Those of bets."""
    if BLIND:
        columns = {name: np.full(len(values), AVERAGE.get(name, np.nan)) for name, values in columns.items()}
    return bets.features(columns, state)


USE_CASE = bets.USE_CASE.model_copy(
    update={
        "name": "derby",
        "tables": (bets.MATCHES_TABLE.model_copy(update={"source": Files(pattern="derby_*.csv")}),),
        "seed": SEED,
        "features": features,
        "gate": Gate(metric="log_loss", at_most=10, worse_by_at_most=10),
        "horizon": 30 * SECOND,
        "rollout": RolloutPlan(
            shadow=Shadow(share=1.0, time=SECOND, pairs=50),
            stages=(Stage(weight=10, **QUICK), Stage(weight=50, labels=100, **QUICK)),
            cap=100,
            errors_worse_by_at_most=0.2,
            latency_worse_by_at_most={"p50": 4.0},
            loss_worse_by_at_most=0.02,
            miscalibrated_by_at_most=0.2,
            patience=timedelta(hours=1),
            watch=5 * SECOND,
        ),
    }
)
