"""Worlds with rows that the real step committed, without files and validation before it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from pipelines import lake
from pipelines.adapters.plain_text import ROWS as A_BATCH
from pipelines.records import Batch, CheckedArrivals, CheckedBatch
from pipelines.steps import judged
from pipelines.steps.publish import publish
from pipelines.steps.receive import INTENTS
from tests.builders import NOW, World, replace

SUITE = "0" * 64
CASES = Path(__file__).parent / "cases"


def fill(world: World, table: str, parts: Iterable[pl.DataFrame]) -> None:
    """Publish each part as one batch of a file of its own, and hand it over."""
    at = at_of(world, table)
    declared = {column.name: lake.dtype(column) for column in at.table.columns}
    for number, part in enumerate(parts, 1):
        rows = part.cast(declared).with_columns(
            _row=pl.int_range(pl.len(), dtype=pl.Int64) + 1,
            _raw=pl.lit(None, pl.String),
            _reasons=pl.lit([], pl.List(pl.String)),
        )
        batch = Batch(
            number=number,
            file=f"filled-{number}.csv",
            digest=hashlib.sha256(b"%d" % number).hexdigest(),
            size=1,
            rows=len(rows),
            unreadable=None,
            received_at=NOW,
            stamp="1",
            start=0,
            stop=1,
        )
        intent = pl.DataFrame([batch.model_dump()], schema=INTENTS)
        world.tools.tables.append(at.batches, intent, lake.RECEIVE, number)
        folder = judged.new_folder(at, batch)
        judged.keep_broken(rows.head(0), folder)
        judged.keep_good(world.tools.tables, at, batch, SUITE, rows, folder)
        checked = CheckedBatch(batch=batch, uri=str(folder), suite=SUITE, failed=None, broken=0, warnings=())
        publish(world.tools, world.use_case, CheckedArrivals(table=table, batches=(checked,)))
        world.tools.labels.hand(world.use_case.name, table, number, [])


def at_of(world: World, table: str) -> lake.TableAt:
    """Where the table lies."""
    return lake.TableAt(world.tools.tables_at, world.use_case.table(table))


def wide(folder: Path, n: int) -> World:
    """A world of the use case `wide` with n rows."""
    folder.mkdir()
    world = World(folder, "wide", (CASES,))
    fill(world, "rows", (_wide(min(A_BATCH, n - start), start) for start in range(0, n, A_BATCH)))
    return world


def opened(world: str, runs: Path) -> World:
    """A world of `wide` that was filled before; its runs lie elsewhere."""
    (runs / "own").mkdir()
    found = World(runs / "own", "wide", (CASES,))
    at = Path(world)
    found.tools = replace(found.tools, tables_at=str(at / "tables"), snapshots=at / "snapshots")
    return found


def _wide(n: int, first: int) -> pl.DataFrame:
    random = np.random.default_rng([11, first])
    x = random.normal(size=(n, 20)).round(3)
    y = x[:, :8].sum(axis=1) + 2 * x[:, 8] * x[:, 9] + np.sin(3 * x[:, 10]) + random.normal(0, 0.5, n)
    return pl.DataFrame({
        "id": first + np.arange(n),
        **{f"x{place:02}": x[:, place] for place in range(20)},
        "y": y.round(4),
    })
