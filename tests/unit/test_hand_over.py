"""Labels from tables: each published row tells once, a revision tells anew."""

from datetime import timedelta

import polars as pl
import pytest

from pipelines import fakes, flows
from pipelines.errors import BadUseCase
from pipelines.steps.hand_over import hand_over
from tests.builders import NOW, World, replace


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def burnt(world, name, rows):
    (world.drop / name).write_text("User_ID,Calories\n" + "".join(f"{user},{value}\n" for user, value in rows))


def told(world):
    return [(one.key, one.actual, one.observed_at) for _, one in world.tools.labels.kept]


def ingest(world, now=NOW):
    return flows.ingestion(world.do, "burnt", now)


def test_published_rows_become_labels_by_key_once(world):
    burnt(world, "calories-1.csv", [(1, 10), (2, 20)])
    for _ in range(2):
        ledger = ingest(world)
        assert ledger.published == 2
        hand_over(world.tools, world.use_case, ledger)
    assert told(world) == [("1", 10.0, NOW), ("2", 20.0, NOW)]


def test_a_revision_is_a_newer_observation_also_within_one_run(world):
    burnt(world, "calories-1.csv", [(1, 10)])
    burnt(world, "calories-2.csv", [(1, 11)])
    ingest(world)
    first, second = told(world)
    assert (first[1], second[1]) == (10.0, 11.0)
    assert first[2] < second[2]


def test_of_two_revisions_in_one_file_the_last_tells(world):
    burnt(world, "calories-1.csv", [(1, 10), (1, 12)])
    ingest(world)
    assert [one[:2] for one in told(world)] == [("1", 12.0)]


def test_a_run_killed_before_its_labels_hands_them_over_the_next_time(world):
    class Killed(fakes.MemoryLabelBook):
        def hand(self, *_):
            raise KeyboardInterrupt

    burnt(world, "calories-1.csv", [(1, 10)])
    book, world.tools = world.tools.labels, replace(world.tools, labels=Killed())
    with pytest.raises(KeyboardInterrupt):
        ingest(world)
    world.tools = replace(world.tools, labels=book)
    ingest(world, NOW + timedelta(days=1))
    assert told(world) == [("1", 10.0, NOW)]


def telling(world, labels):
    """The world's use case with another function for the table of labels."""
    world.use_case = world.use_case.model_copy(update={"labels": {"burnt": labels}})


def test_rows_that_tell_nothing_leave_no_label_and_are_done(world):
    telling(world, lambda _: pl.DataFrame())
    burnt(world, "calories-1.csv", [(1, 10)])
    ingest(world)
    assert (told(world), world.tools.labels.handed("calories", "burnt")) == ([], 1)


def test_a_table_of_which_nothing_is_said_is_not_asked_and_tells_all_when_it_is(world):
    asked = world.use_case
    world.use_case = asked.model_copy(update={"labels": {}})
    burnt(world, "calories-1.csv", [(1, 10)])
    ingest(world)
    assert (told(world), world.tools.labels.handed("calories", "burnt")) == ([], 0)
    world.use_case = asked
    ingest(world)
    assert told(world) == [("1", 10.0, NOW)]


def test_times_of_the_rows_go_along_and_rows_without_a_number_tell_nothing(world):
    event = NOW - timedelta(days=3)

    def labels(rows):
        return rows.select(
            entity="User_ID",
            actual=pl.when(pl.col("Calories") > 10).then("Calories"),
            event_time=pl.lit(event),
            observed_at=pl.lit(NOW.replace(tzinfo=None)),
        )

    telling(world, labels)
    burnt(world, "calories-1.csv", [(1, 10), (2, 20)])
    ingest(world)
    ((_, one),) = world.tools.labels.kept
    assert (one.key, one.event_time, one.observed_at, one.received_at) == ("2", event, NOW, NOW)


def test_a_frame_without_its_columns_is_the_use_cases_fault(world):
    telling(world, lambda rows: rows.select("User_ID"))
    burnt(world, "calories-1.csv", [(1, 10)])
    with pytest.raises(BadUseCase, match="actual"):
        ingest(world)
