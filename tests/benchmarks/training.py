"""The training step on a million rows of twenty numbers, beside bare `xgboost.train` on the same matrix.

Ours is the whole step: rows in force from Delta, what is held out, features, fit, held-out answers, metrics,
golden rows, pictures, ONNX, digests of the code, a tracker that keeps the run in a folder (MLflow's upload is not
in it). Both sides have two threads; imports are not counted, a small training before warms both up.
"""

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines.records import Wish
from pipelines.rows import columns_of, targets_of, training_rows
from pipelines.steps.snapshot import kept_snapshot, take_snapshot
from pipelines.steps.train import assembled, train
from tests.benchmarks import Report, compared, in_turns
from tests.benchmarks.child import measured
from tests.benchmarks.filled import opened, wide
from tests.builders import NOW, World, replace

ROWS, TURNS = 1_000_000, 15
LEG = "train on 1M rows x 20, the whole step"
REFERENCE = "bare xgboost.train on the same matrix"


def run(rows: int = ROWS, turns: int = TURNS) -> Report:
    """Measure; some five minutes, because a fit alone varies by a tenth."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        matrix = _matrix(wide(folder / "world", rows), folder / "matrix.npz")
        given = {"world": str(folder / "world")}
        costs = in_turns(lambda: measured(bare, matrix=matrix), lambda: measured(step, **given), turns)
    walls = [(other.seconds, ours.seconds) for other, ours in costs]
    peaks = [(other.peak, ours.peak) for other, ours in costs]
    return Report([
        compared(LEG, "s", REFERENCE, walls, "<= 1.3", rows),
        compared(f"{LEG}: peak memory", "MiB", REFERENCE, peaks, "", rows),
    ])


def _matrix(world: World, file: Path) -> str:
    """What the step gives to XGBoost, on disk."""
    snapshot = take_snapshot(world.tools, world.use_case, Wish(), NOW)
    learnt = training_rows(world.use_case, assembled(world.tools, world.use_case, snapshot))
    matrix = world.use_case.features(columns_of(world.use_case, learnt), {})
    np.savez(file, x=matrix, y=targets_of(world.use_case, learnt)["y"])
    return str(file)


def bare(matrix: str) -> float:
    """Rows in memory to a booster, with the parameters that scikit-learn's interface would pass; in seconds."""
    import xgboost

    found = np.load(matrix)
    x, y = found["x"], found["y"]
    given = {"objective": "reg:squarederror", "tree_method": "hist", "nthread": 2, "seed": 0}
    xgboost.train(given, xgboost.QuantileDMatrix(x[:1000], y[:1000], nthread=2), 2)
    began = time.perf_counter()
    xgboost.train(given, xgboost.QuantileDMatrix(x, y, nthread=2), 100)
    return time.perf_counter() - began


def step(world: str) -> float:
    """Train on few rows to warm up, then on the snapshot of that world; in seconds."""
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as made:
        small = wide(Path(made) / "small", 2000)
        train(small.tools, small.use_case, take_snapshot(small.tools, small.use_case, Wish(), NOW), Wish(), NOW)
        whole = opened(world, Path(made))
        whole.tools = replace(whole.tools, tracker=small.tools.tracker, evidence=small.tools.evidence)
        [manifest] = (whole.tools.snapshots / "wide").glob("*.json")
        snapshot = kept_snapshot(whole.tools, whole.use_case, manifest.stem)
        began = time.perf_counter()
        candidate = train(whole.tools, whole.use_case, snapshot, Wish(), NOW)
        seconds = time.perf_counter() - began
    assert candidate.metrics["rmse"] < 5
    return seconds
