"""Calories again, with a rollout that takes seconds; the tests write other numbers into it for each version."""

from datetime import timedelta
from pathlib import Path

from pipelines.spec import Columns, Gate, RolloutPlan, Shadow, Stage, State
from pipelines.use_cases import calories

TREES = 40
SEED = 0
BROKEN_WHILE = "/nowhere"
"""While this file is there the model's code fails."""
NO_DIFFERENCE = "promote"
SECOND = timedelta(seconds=1)
QUICK = {"time": 2 * SECOND, "requests": 40}
STAGES = (Stage(weight=10, **QUICK), Stage(weight=50, labels=100, **QUICK))


def features(columns: Columns, state: State):
    """Those of calories."""
    if Path(BROKEN_WHILE).exists():
        raise RuntimeError("broken on purpose")
    return calories.features(columns, state)


PART = calories.USE_CASE.parts[0]
USE_CASE = calories.USE_CASE.model_copy(
    update={
        "name": "swift",
        "seed": SEED,
        "features": features,
        "parts": (PART.model_copy(update={"parameters": {**PART.parameters, "n_estimators": TREES}}),),
        "gate": Gate(metric="rmse", at_most=1000, worse_by_at_most=1000),
        "horizon": 30 * SECOND,
        "retrain_after_labels": None,
        "rollout": RolloutPlan(
            shadow=Shadow(share=0.5, time=SECOND, pairs=50),
            stages=STAGES,
            cap=100,
            errors_worse_by_at_most=0.2,
            latency_worse_by_at_most={"p50": 4.0},
            loss_worse_by_at_most=0.1,
            patience=timedelta(hours=1),
            watch=5 * SECOND,
            no_difference=NO_DIFFERENCE,
        ),
    }
)
