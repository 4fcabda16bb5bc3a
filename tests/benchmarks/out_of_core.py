"""Training on more rows than fit in a limit of memory, beside the same rows in memory without a limit.

Each training is the whole step in a process of its own. Under the limit the training in memory must not finish,
and the one that works from disk must: both are tried, and what was seen is in the figures.
"""

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.records import Wish
from pipelines.steps.snapshot import kept_snapshot, take_snapshot
from pipelines.steps.train import train
from tests.benchmarks import Report, compared, in_turns
from tests.benchmarks.child import MIB, Cost, Ended, limited_by, tried
from tests.benchmarks.filled import opened, wide
from tests.builders import NOW, replace

ROWS, LIMIT, TREES, TURNS = 4_000_000, 1536, 30, 1
"""LIMIT is MiB; the rows need some 2,000 in memory. Few trees, because each side grows them at the same cost."""
REFERENCE = "in memory, no limit"


def run(rows: int = ROWS, limit: int = LIMIT, turns: int = TURNS) -> Report:
    """Measure; some minutes."""
    leg = f"train on {rows / 1e6:g}M rows x 20 within {limit} MiB ({limited_by()})"
    with TemporaryDirectory() as made:
        world = wide(Path(made) / "world", rows)
        take_snapshot(world.tools, world.use_case, Wish(), NOW)
        given = {"world": str(Path(made) / "world")}
        beyond = tried(step, limit * MIB, **given)
        assert isinstance(beyond, Ended), f"in memory it finished within the limit, at {beyond.peak:.0f} MiB"
        costs = in_turns(
            lambda: finished(tried(step, None, **given)),
            lambda: finished(tried(step, limit * MIB, **given, budget=limit)),
            turns,
        )
    walls = [(other.seconds, ours.seconds) for other, ours in costs]
    peaks = [(other.peak, ours.peak) for other, ours in costs]
    return Report([
        compared(leg, "s", f"{REFERENCE}; within it: exit {beyond.code}", walls, "<= 3", rows),
        compared(f"{leg}: peak memory", "MiB", REFERENCE, peaks, "", rows),
    ])


def finished(found: Cost | Ended) -> Cost:
    """A training that must end well."""
    assert isinstance(found, Cost), found
    return found


def step(world: str, budget: int | None = None) -> float:
    """Train on the snapshot of a filled world; in seconds."""
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as made:
        whole = opened(world, Path(made))
        whole.tools = replace(whole.tools, training_memory=budget)
        [part] = whole.use_case.parts
        few = part.model_copy(update={"parameters": {"n_estimators": TREES}})
        use_case = whole.use_case.model_copy(update={"parts": (few,)})
        [manifest] = (whole.tools.snapshots / "wide").glob("*.json")
        snapshot = kept_snapshot(whole.tools, whole.use_case, manifest.stem)
        began = time.perf_counter()
        train(whole.tools, use_case, snapshot, Wish(), NOW)
        return time.perf_counter() - began
