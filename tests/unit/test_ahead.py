"""Batches side by side give what they give one after the other."""

import threading
import time
from datetime import timedelta

import polars as pl
import pytest

from pipelines import flows, lake
from pipelines.adapters import plain_text
from pipelines.steps import publish, validate
from pipelines.steps.ahead import ahead
from tests.benchmarks.sessions import sessions
from tests.builders import NOW, World, replace


def test_results_come_in_order_and_no_more_are_made_than_there_are_threads() -> None:
    made: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.02 if number % 2 else 0)
        made.append(number)
        return number

    for result in ahead(work, range(7), 2):
        time.sleep(0.01)
        assert max(made) <= result + 2
    assert sorted(made) == list(range(7))
    assert list(ahead(work, [], 2)) == []


def test_two_are_at_work_at_once() -> None:
    both = threading.Barrier(2, timeout=10)
    assert len(list(ahead(lambda _: both.wait(), range(2), 2))) == 2


def test_what_a_thread_raises_is_raised_in_its_turn_and_nothing_new_begins() -> None:
    made: list[int] = []

    def work(number: int) -> int:
        made.append(number)
        if number == 2:
            raise ValueError("number two")
        return number

    results = ahead(work, range(9), 1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="number two"):
        next(results)
    assert made == [0, 1, 2]


@pytest.fixture
def many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "ROWS", 50)


def world_of(at, rows: pl.DataFrame) -> World:
    at.mkdir()
    world = World(at)
    rows.write_csv(world.drop / "exercise-a.csv")
    return world


def rows_with_everything() -> pl.DataFrame:
    """Broken rows, and keys that come again in later batches as duplicates and as revisions."""
    first = sessions(300, broken=0.05)
    revised = first[100:200].with_columns(pl.col("Age") + 1)
    return pl.concat([first, first[:60], revised, revised[:10]])


def published(world: World) -> tuple[pl.DataFrame, pl.DataFrame]:
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("exercise"))
    good = world.tools.tables.scan(at.published).collect().sort("_batch", "_row")
    return good, world.tools.tables.scan(at.aside).collect().sort("batch", "row")


@pytest.mark.usefixtures("many_batches")
def test_batches_side_by_side_publish_the_same_as_one_after_the_other(tmp_path, monkeypatch) -> None:
    rows = rows_with_everything()
    together = world_of(tmp_path / "together", rows)
    ledger = flows.ingestion(together.do, "exercise", NOW)
    monkeypatch.setattr(validate, "ahead", lambda work, each, threads: map(work, each))
    monkeypatch.setattr(publish, "ahead", lambda work, each, threads: map(work, each))
    alone = world_of(tmp_path / "alone", rows)
    assert flows.ingestion(alone.do, "exercise", NOW) == ledger
    assert ledger.quarantined
    assert ledger.revised
    assert ledger.duplicate
    for one, other in zip(published(together), published(alone), strict=True):
        assert one.equals(other)
    assert published(together)[0]["_batch"].n_unique() > 5


class BreaksOnce:
    """A reader that cannot read one batch, the first time."""

    def __init__(self, whole, start: int) -> None:
        self.whole, self.start, self.broken = whole, start, False

    def __getattr__(self, name: str):
        return getattr(self.whole, name)

    def read(self, landed, table, piece):
        if not self.broken and piece is not None and piece.first == self.start:
            self.broken = True
            raise OSError("the disk is gone")
        return self.whole.read(landed, table, piece)


@pytest.mark.usefixtures("many_batches")
def test_a_failure_in_one_thread_names_its_cause_and_loses_nothing(tmp_path) -> None:
    rows = rows_with_everything()
    world = world_of(tmp_path / "breaks", rows)
    world.tools = replace(world.tools, reader=BreaksOnce(world.tools.reader, 151))
    with pytest.raises(OSError, match="the disk is gone"):
        flows.ingestion(world.do, "exercise", NOW)
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("exercise"))
    assert world.tools.tables.committed(at.published, lake.PUBLISH) == 0
    ledger = flows.ingestion(world.do, "exercise", NOW + timedelta(minutes=1))
    assert ledger.balanced
    assert ledger.arrived == len(rows)


@pytest.mark.usefixtures("many_batches")
def test_a_batch_that_cannot_be_read_back_leaves_those_before_it_published(tmp_path) -> None:
    world = world_of(tmp_path / "torn", rows_with_everything())
    arrivals = world.do(validate.validate)(world.do(flows.receive)("exercise", NOW), NOW)
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("exercise"))
    kept = lake.checked_file(at, 4)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    with pytest.raises(pl.exceptions.ComputeError):
        world.do(publish.publish)(arrivals)
    assert world.tools.tables.committed(at.published, lake.PUBLISH) == 3
    kept.write_bytes(whole)
    assert world.do(publish.publish)(arrivals).balanced


@pytest.mark.usefixtures("many_batches")
def test_judged_rows_go_when_they_are_published_also_those_that_a_killed_run_left(tmp_path) -> None:
    world = world_of(tmp_path / "goes", rows_with_everything())
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("exercise"))
    arrivals = world.do(flows.receive)("exercise", NOW)
    checked = world.do(validate.validate)(arrivals, NOW)
    folder = lake.checked_file(at, 1).parent
    assert len(list(folder.iterdir())) == len(arrivals.batches)
    before = checked.model_copy(update={"batches": checked.batches[:2]})
    world.do(publish.publish)(before)
    assert not lake.checked_file(at, 1).exists()
    assert lake.checked_file(at, 3).exists()
    (folder / "00000001.parquet").write_bytes(b"of an older release")
    assert world.do(publish.publish)(checked) == world.do(publish.publish)(checked)
    assert list(folder.iterdir()) == []
