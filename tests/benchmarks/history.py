"""10,000 new rows onto much history: duplicates and revisions are found, at the cost of the same onto little.

Each history is committed by the real step in batches of 200,000 rows. A file has 5,000 new rows, 4,000 that are
there already and 1,000 that correct one; both sides take their files in turns (A B A B in one run).
"""

import logging
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from pipelines import flows, lake
from pipelines.adapters.plain_text import ROWS as A_BATCH
from tests.benchmarks import Curve, Report, compared
from tests.benchmarks.filled import at_of, fill
from tests.benchmarks.sessions import FIRST, sessions
from tests.builders import NOW, World

SIZES, NEW, TURNS = (10_000, 100_000, 1_000_000, 10_000_000), 10_000, 5
FOUND = {"arrived": NEW, "published": 5000, "revised": 1000, "duplicate": 4000}
LEG = "10,000 new rows onto 10M of history"


def run(sizes: tuple[int, ...] = SIZES, turns: int = TURNS) -> Report:
    """Measure; some minutes, most of them to make the histories."""
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as made:
        worlds = [_filled(Path(made) / str(size), size) for size in sizes]
        for place, world in enumerate(worlds):
            _cost(world, sizes[place], 0)
        costs = [
            [_cost(world, size, turn) for world, size in zip(worlds, sizes, strict=True)]
            for turn in range(1, turns + 1)
        ]
    flat = tuple(
        (float(size), statistics.median(each)) for size, each in zip(sizes, zip(*costs, strict=True), strict=True)
    )
    pairs = [(each[0], each[-1]) for each in costs]
    return Report(
        [compared(LEG, "s", f"the same onto {sizes[0]:,}", pairs, "<= 3", turns * NEW)],
        [Curve(LEG, "s", "rows before", flat)],
    )


def _filled(folder: Path, size: int) -> World:
    """A world with so many published rows."""
    folder.mkdir()
    world = World(folder)
    fill(world, "exercise", (sessions(min(A_BATCH, size - at), at) for at in range(0, size, A_BATCH)))
    return world


def _cost(world: World, size: int, turn: int) -> float:
    """Put a file there and take it in, in seconds; what was found must be what is in it."""
    before = lake.ledger(world.tools.tables, at_of(world, "exercise")).model_dump(exclude={"table"})
    (world.drop / f"exercise-{turn}.csv").write_text(_file(world, size, turn).write_csv())
    began = time.perf_counter()
    ledger = flows.ingestion(world.do, "exercise", NOW)
    seconds = time.perf_counter() - began
    new = {name: getattr(ledger, name) - count for name, count in before.items()}
    assert {name: count for name, count in new.items() if count} == FOUND, new
    return seconds


def _file(world: World, size: int, turn: int) -> pl.DataFrame:
    """New users, and users from all over the history: some as they are, some with another weight."""
    chosen = FIRST + np.random.default_rng(1).choice(size, NEW, replace=False)
    same, corrected = chosen[-FOUND["duplicate"] :], chosen[turn * 1000 : (turn + 1) * 1000]
    new = sessions(FOUND["published"], 10**9 + turn * NEW)
    there = world.tools.tables.scan(at_of(world, "exercise").published).select(new.columns)
    taken = there.filter(pl.col("User_ID").is_in(np.concatenate([same, corrected]))).collect(engine="streaming")
    heavier = pl.col("User_ID").is_in(corrected).cast(pl.Float64) * 0.5
    return pl.concat([new, taken.with_columns(pl.col("Weight") + heavier)]).sample(
        fraction=1, shuffle=True, seed=turn
    )
