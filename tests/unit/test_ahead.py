"""Batches side by side give what they give one after the other."""

import threading
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pipelines import flows, lake
from pipelines.adapters import plain_text
from pipelines.errors import JudgedAnew
from pipelines.steps import judged, publish, validate
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
    kept = Path(arrivals.batches[3].uri) / judged.BROKEN
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
    folder = Path(at.checked)
    assert len(list(folder.iterdir())) == len(arrivals.batches)
    before = checked.model_copy(update={"batches": checked.batches[:2]})
    world.do(publish.publish)(before)
    assert [Path(batch.uri).exists() for batch in checked.batches[:3]] == [False, False, True]
    (folder / "00000001.parquet").write_bytes(b"of an older release")
    assert world.do(publish.publish)(checked) == world.do(publish.publish)(checked)
    assert list(folder.iterdir()) == []


def test_new_rows_are_taken_over_as_validation_wrote_them(tmp_path) -> None:
    world = World(tmp_path)
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("exercise"))
    written = []
    for number in (1, 2):
        sessions(20, number * 100).write_csv(world.drop / f"exercise-{number}.csv")
        checked = world.do(validate.validate)(world.do(flows.receive)("exercise", NOW), NOW)
        written = [file.name for file in Path(checked.batches[0].uri, judged.GOOD).glob("*.parquet")]
        assert world.do(publish.publish)(checked).published == number * 20
    assert len(written) == 1
    assert (Path(at.published) / written[0]).stat().st_nlink == 1
    assert sorted(world.tools.tables.scan(at.published).collect()["_batch"]) == [1] * 20 + [2] * 20


def test_of_a_batch_that_is_judged_again_and_again_the_last_two_are_kept(tmp_path) -> None:
    world = World(tmp_path)
    sessions(20).write_csv(world.drop / "exercise.csv")
    arrivals = world.do(flows.receive)("exercise", NOW)
    judgements = [world.do(validate.validate)(arrivals, NOW) for _ in range(4)]
    kept = [Path(checked.batches[0].uri).exists() for checked in judgements]
    assert kept == [False, False, True, True]
    with pytest.raises(JudgedAnew, match=r"batch 1 \(exercise\.csv\): other runs judged it"):
        world.do(publish.publish)(judgements[1])
    assert world.do(publish.publish)(judgements[2]).published == 20
    assert not Path(judgements[3].batches[0].uri).exists()
    assert [world.do(publish.publish)(one).published for one in (judgements[3], judgements[1])] == [20, 20]


def test_a_batch_of_which_every_row_is_broken_is_set_aside_and_committed(tmp_path) -> None:
    world = World(tmp_path)
    for number, broken in enumerate((0.0, 1.0)):
        sessions(20, number * 100, broken=broken).write_csv(world.drop / f"exercise-{number}.csv")
        ledger = flows.ingestion(world.do, "exercise", NOW)
    assert (ledger.arrived, ledger.published, ledger.quarantined) == (40, 20, 20)
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("exercise"))
    assert world.tools.tables.committed(at.published, lake.PUBLISH) == 2
