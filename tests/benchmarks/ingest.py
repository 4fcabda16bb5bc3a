"""A million rows of CSV from the folder to the published table, beside pyarrow: it reads the CSV, writes Parquet.

Ours is the whole flow: landing and digests, cutting, types, every rule of the suite, the page, keys looked up, two
commits a batch, the ledger. Both sides have two threads and a warm page cache; imports are not counted.
"""

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines import flows
from tests.benchmarks import Report, compared, in_turns
from tests.benchmarks.child import measured
from tests.benchmarks.sessions import write
from tests.builders import NOW, World

ROWS, TURNS = 1_000_000, 7
LEG = "ingest 1M rows of CSV"
REFERENCE = "pyarrow reads the CSV, writes Parquet"


def run(rows: int = ROWS, turns: int = TURNS) -> Report:
    """Measure; about a minute."""
    with TemporaryDirectory() as made:
        file = str(write(Path(made) / "exercise.csv", rows))
        costs = in_turns(lambda: measured(by_pyarrow, file=file), lambda: measured(by_flow, file=file), turns)
    walls = [(other.seconds, ours.seconds) for other, ours in costs]
    peaks = [(other.peak, ours.peak) for other, ours in costs]
    return Report([
        compared(LEG, "s", REFERENCE, walls, "<= 3", rows),
        compared(f"{LEG}: peak memory", "MiB", REFERENCE, peaks, "", rows),
    ])


def by_pyarrow(file: str) -> float:
    """Read with types guessed, write one file; in seconds."""
    from pyarrow import csv, parquet, set_cpu_count

    set_cpu_count(2)
    with TemporaryDirectory() as made:
        began = time.perf_counter()
        parquet.write_table(csv.read_csv(file), Path(made) / "exercise.parquet")
        return time.perf_counter() - began


def by_flow(file: str) -> float:
    """Ingest a small file to warm up, then this one; in seconds."""
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as made:
        world = World(Path(made))
        write(world.drop / "exercise-warm.csv", 1000, first=5 * 10**8)
        flows.ingestion(world.do, "exercise", NOW)
        (world.drop / "exercise-whole.csv").symlink_to(file)
        began = time.perf_counter()
        ledger = flows.ingestion(world.do, "exercise", NOW)
        seconds = time.perf_counter() - began
    assert ledger.balanced
    assert ledger.quarantined + ledger.duplicate == 0
    return seconds
