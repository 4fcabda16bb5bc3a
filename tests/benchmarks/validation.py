"""Great Expectations' judgement of a million rows, beside the same rules by hand in Polars.

Both begin with typed rows in memory and end with the reasons of each broken row: no reading, no writing, no page.
A hundredth of the rows is broken, and both must find the same. Memory is that of a process that judges 1M, 2M and
4M rows in batches of 200,000, as the step does.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl

from pipelines import catalog
from pipelines.adapters.expectations import ExpectationsValidator
from pipelines.adapters.plain_text import ROWS as A_BATCH
from pipelines.steps.validate import with_reasons
from tests.benchmarks import Curve, Report, compared, in_turns
from tests.benchmarks.child import measured
from tests.benchmarks.sessions import sessions

ROWS, TURNS, SIZES = 1_000_000, 15, (1_000_000, 2_000_000, 4_000_000)
LEG = "validate 1M rows, every rule, with the row split"
MEMORY = "validate 4M rows in batches: peak memory"
REFERENCE = "the same rules by hand in Polars"
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
FRESH = NOW - timedelta(days=2)
SUITE = catalog.locate("calories").expectations / "exercise.json"
RANGES = {
    "Age": (10, 110, "years"),
    "Height": (100, 250, "cm"),
    "Weight": (25, 300, "kg"),
    "Duration": (0.1, 600, "min"),
    "Heart_Rate": (40, 230, "bpm"),
    "Body_Temp": (35, 43, "°C"),
}
NAMES = ("User_ID", "Gender", *RANGES)


Judge = Callable[[pl.DataFrame], pl.DataFrame]


def run(rows: int = ROWS, turns: int = TURNS, sizes: tuple[int, ...] = SIZES) -> Report:
    """Measure; a minute or two."""
    whole = judged_rows(rows, 0)
    ours, by_hand = by_expectations(whole), by_polars(whole)
    assert ours.equals(by_hand)
    assert len(ours) > rows // 200
    pairs = in_turns(lambda: _seconds(by_polars, whole), lambda: _seconds(by_expectations, whole), turns)
    costs = [measured(in_batches, n=n) for n in sizes]
    peaks = tuple((float(n), cost.peak) for n, cost in zip(sizes, costs, strict=True))
    each = tuple((float(n), cost.seconds / n * 1e6) for n, cost in zip(sizes, costs, strict=True))
    return Report(
        [
            compared(LEG, "s", REFERENCE, pairs, "<= 15", rows),
            compared(MEMORY, "MiB", f"{sizes[0]:,} rows", [(peaks[0][1], peaks[-1][1])], "<= 1.1", sizes[-1]),
        ],
        [
            Curve("validation: peak memory", "MiB", "rows in batches of 200,000", peaks),
            Curve("validation: cost", "us a row", "rows in batches of 200,000", each),
        ],
    )


def judged_rows(n: int, first: int) -> pl.DataFrame:
    """Typed rows as the step gives them, of which a hundredth has an impossible height and some lack a pulse."""
    rows = (
        sessions(n, first, broken=0.01)
        .with_row_index("_row", offset=1)
        .with_columns(pl.col("_row").cast(pl.Int64))
    )
    pulse = pl.when(pl.col("_row") % 1000 != 0).then(pl.col("Heart_Rate"))
    return rows.with_columns(Heart_Rate=pulse, received_at=pl.lit(NOW))


JUDGE = ExpectationsValidator()


def by_expectations(rows: pl.DataFrame) -> pl.DataFrame:
    """Broken rows and their reasons, by the suite."""
    findings = JUDGE.validate(rows.drop("_row"), SUITE, {"fresh_after": FRESH.isoformat()})
    assert not [each for each in findings if each.rows is None]
    reasons = pl.repeat([], len(rows), dtype=pl.List(pl.String), eager=True)
    told = with_reasons(rows.select("_row", _reasons=reasons), findings)
    return told.filter(pl.col("_reasons").list.len() > 0)


def by_polars(rows: pl.DataFrame) -> pl.DataFrame:
    """The same rules, in the suite's order, as one would write them."""
    assert set(rows.columns) == {*NAMES, "_row", "received_at"}
    assert 1 <= len(rows) <= 5_000_000
    assert rows["received_at"].max() >= FRESH
    assert rows["Heart_Rate"].is_not_null().mean() >= 0.5
    broken = {f"{name} is missing": pl.col(name).is_null() for name in NAMES}
    broken["Gender is neither female nor male"] = ~pl.col("Gender").is_in(["female", "male"])
    for name, (least, most, unit) in RANGES.items():
        broken[f"{name} is outside {least} to {most} {unit}"] = ~pl.col(name).is_between(least, most)
    found = rows.lazy().filter(pl.any_horizontal(broken.values())).collect()
    words = [pl.when(rule).then(pl.lit(reason)) for reason, rule in broken.items()]
    return found.select("_row", _reasons=pl.concat_list(words).list.drop_nulls())


def in_batches(n: int) -> float:
    """Judge so many rows, a batch at a time; in seconds, without making them."""
    by_expectations(judged_rows(1000, 0))
    return sum(_seconds(by_expectations, judged_rows(A_BATCH, at)) for at in range(0, n, A_BATCH))


def _seconds(judge: Judge, rows: pl.DataFrame) -> float:
    began = time.perf_counter()
    judge(rows)
    return time.perf_counter() - began
