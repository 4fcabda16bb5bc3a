"""From files to published rows: real Delta, real Great Expectations."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from pipelines import lake
from pipelines.steps.publish import publish
from pipelines.steps.receive import receive
from pipelines.steps.validate import validate
from tests.builders import NOW, World, real_data, write_drop

EXERCISE = "User_ID,Gender,Age,Height,Weight,Duration,Heart_Rate,Body_Temp\n"
GOOD = "1,male,30,180,80,20,100,39.5\n2,female,40,165,60,10,90,39.0\n"


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def rows(world, table="exercise"):
    at = lake.TableAt(world.tools.tables_at, world.use_case.table(table))
    return lake.in_force(world.tools.tables, at, NOW + timedelta(days=1))


def aside(world, table="exercise"):
    at = lake.TableAt(world.tools.tables_at, world.use_case.table(table))
    return world.tools.tables.scan(at.aside).collect()


def counts(ledger):
    return ledger.model_dump(exclude={"table"}, exclude_defaults=True)


def test_good_rows_are_published_with_file_row_and_suite(world):
    (world.drop / "exercise.csv").write_text(EXERCISE + GOOD)
    ledger = world.ingest()["exercise"]
    assert counts(ledger) == {"arrived": 2, "published": 2}
    found = rows(world)
    assert found.select("User_ID", "Age", "_file", "_row", "_revision").rows() == [
        (1, 30, "exercise.csv", 1, 1),
        (2, 40, "exercise.csv", 2, 1),
    ]
    assert found["_suite"].str.len_chars().to_list() == [64, 64]


def test_broken_rows_go_to_quarantine_with_every_reason_and_the_good_ones_go_on(world):
    broken = (
        "3,male,thirty,180,80,20,100,39.5\n"
        "4,robot,30,999,80,20,100,39.5\n"
        "5,male,30,180,80,20,,39.5\n"
        "6,male,30,180\n"
        "7,male,30,180,80,20,100,nan\n"
        "8,male,30.5,180,80,20,100,39\n"
        "\n"
    )
    (world.drop / "exercise.csv").write_text(EXERCISE + GOOD + broken)
    ledger = world.ingest()["exercise"]
    assert counts(ledger) == {"arrived": 9, "published": 2, "quarantined": 7}
    told = {row: reasons for row, reasons in aside(world).select("row", "reasons").rows()}
    assert told[3] == ["Age: thirty is not a whole number"]
    assert told[4] == ["Gender is neither female nor male", "Height is outside 100 to 250 cm"]
    assert told[5] == ["Heart_Rate is missing"]
    assert told[6] == ["the line has 4 cells, the header 8"]
    assert told[7] == ["Body_Temp: nan is not a number"]
    assert told[8] == ["Age: 30.5 is not a whole number"]
    assert told[9] == ["the row is empty: separators and nothing between them"]
    raw = aside(world).filter(pl.col("row") == 4)["raw"].item()
    assert '"Gender":"robot"' in raw


def test_the_same_drop_three_times_leaves_the_same_table_and_the_same_ledger(world):
    (world.drop / "exercise.csv").write_text(EXERCISE + GOOD)
    first, table = world.ingest()["exercise"], rows(world)
    shutil.copyfile(world.drop / "exercise.csv", world.drop / "exercise-again.csv")
    assert world.ingest()["exercise"] == first
    assert world.ingest()["exercise"] == first
    assert rows(world).equals(table)


def test_an_overlapping_file_gives_duplicates_and_revisions_and_the_newest_is_in_force(world):
    (world.drop / "exercise-1.csv").write_text(EXERCISE + GOOD)
    world.ingest()
    changed = (
        GOOD.replace("2,female,40", "2,female,41")
        + "2,female,42,165,60,10,90,39.0\n"
        + "9,male,20,180,80,9,99,39\n"
    )
    (world.drop / "exercise-2.csv").write_text(EXERCISE + changed)
    ledger = world.ingest(NOW + timedelta(hours=1))["exercise"]
    assert counts(ledger) == {"arrived": 6, "published": 3, "revised": 2, "duplicate": 1}
    assert rows(world).sort("User_ID").select("User_ID", "Age", "_revision").rows() == [
        (1, 30, 1),
        (2, 42, 3),
        (9, 20, 1),
    ]


def test_a_number_written_in_another_way_is_the_same_content(world):
    (world.drop / "exercise-1.csv").write_text(EXERCISE + GOOD)
    world.ingest()
    (world.drop / "exercise-2.csv").write_text(EXERCISE + GOOD.replace("180,80,20", "180.0,80.00,20.0"))
    assert counts(world.ingest()["exercise"])["duplicate"] == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n", "line 1 is no header"),
        (b"<<<<<<< HEAD\nUser_ID,Gender\n1,male\n", "unresolved merge"),
        (b"a;b;c\n1;2;3\n", "line 1 is no header of exercise"),
        (b"PK\x03\x04\xff\xfe", "the file is no text: byte 3 is 0x03"),
        (b'User_ID,Gender\n1,"male\n2,female\n', "a quote is not closed by the end of the file"),
        (b"User_ID,Age,Age\n1,2,3\n", "the header names Age twice"),
    ],
)
def test_a_file_that_is_no_table_is_refused_whole_and_kept_and_counted(world, content, reason):
    (world.drop / "exercise-1.csv").write_bytes(content)
    (world.drop / "exercise-2.csv").write_text(EXERCISE + GOOD)
    ledger = world.ingest()["exercise"]
    lines = len(content.splitlines())
    assert (ledger.quarantined, ledger.published, ledger.arrived) == (lines, 2, lines + 2)
    refused = aside(world).row(0, named=True)
    assert reason in refused["reasons"][0]
    assert (world.tools.landing / refused["digest"]).read_bytes() == content


def test_a_column_that_changed_its_type_fails_the_batch_and_the_next_file_goes_on(world):
    (world.drop / "exercise-1.csv").write_text(EXERCISE + GOOD.replace(",30,", ",old,").replace(",40,", ",young,"))
    (world.drop / "exercise-2.csv").write_text(EXERCISE + "3,male,30,180,80,20,100,39.5\n")
    assert counts(world.ingest()["exercise"]) == {"arrived": 3, "published": 1, "quarantined": 2}
    assert "Age changed its type: 2 of 2 cells are not integer" in aside(world)["reasons"][0].to_list()


def test_a_missing_column_fails_the_batch_and_is_named(world):
    (world.drop / "exercise.csv").write_text("User_ID,Gender\n1,male\n")
    assert counts(world.ingest()["exercise"]) == {"arrived": 1, "quarantined": 1}
    assert any(
        "a declared column is missing: Age, Body_Temp" in reason.replace("; ", ", ")
        for reason in aside(world)["reasons"][0]
    )


def test_a_missing_column_is_said_once_and_rules_about_it_are_silent(world):
    (world.drop / "exercise.csv").write_text(EXERCISE.replace("Age,", "") + "1,male,180,80,20,100,39.5\n")
    arrivals = receive(world.tools, world.use_case, "exercise", NOW)
    [batch] = validate(world.tools, world.use_case, arrivals, NOW).batches
    assert batch.failed == "no column Age; a declared column is missing: Age"


def test_a_rule_that_cannot_be_asked_refuses_the_batch_where_every_column_is_there(world, tmp_path):
    suite = tmp_path / "suites" / "exercise.json"
    suite.parent.mkdir()
    rule = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "Agee", "min_value": 0, "max_value": 9},
        "severity": "warning",
        "meta": {"id": "age", "reason": "Age is odd"},
    }
    suite.write_text(json.dumps({"name": "exercise", "expectations": [rule]}))
    world.tools = replace(world.tools, found=world.tools.found._replace(expectations=suite.parent))
    (world.drop / "exercise.csv").write_text(EXERCISE + GOOD)
    arrivals = receive(world.tools, world.use_case, "exercise", NOW)
    [batch] = validate(world.tools, world.use_case, arrivals, NOW).batches
    assert batch.failed == 'Age is odd: Error: The column "Agee" in BatchData does not exist.'


def test_the_log_names_all_of_a_few_broken_rows_and_says_where_there_are_more(world, caplog):
    lines = [f"{n},male,30,{999 if n > 2 else 180},80,20,100,{55 if n == 1 else 39.5}\n" for n in range(1, 12)]
    (world.drop / "exercise.csv").write_text(EXERCISE + "".join(lines))
    world.ingest()
    assert "exercise.csv 9 rows: Height is outside 100 to 250 cm (rows 3, 4, 5, 6, 7 …)" in caplog.text
    assert "exercise.csv 1 rows: Body_Temp is outside 35 to 43 °C (rows 1)" in caplog.text


def test_a_missing_column_fails_the_batch_also_where_the_suite_does_not_ask(world, tmp_path):
    suite = tmp_path / "suites" / "exercise.json"
    suite.parent.mkdir()
    suite.write_text('{"name": "exercise", "expectations": []}')
    world.tools = replace(world.tools, found=world.tools.found._replace(expectations=suite.parent))
    (world.drop / "exercise.csv").write_text("User_ID,Gender\n1,male\n")
    arrivals = receive(world.tools, world.use_case, "exercise", NOW)
    checked = validate(world.tools, world.use_case, arrivals, NOW)
    assert "no column Age; no column Height" in checked.batches[0].failed
    assert counts(publish(world.tools, world.use_case, checked)) == {"arrived": 1, "quarantined": 1}


def test_a_row_without_its_key_is_quarantined_and_long_ids_keep_every_digit(world):
    (world.drop / "exercise.csv").write_text(
        EXERCISE + GOOD.replace("1,male", ",male").replace("2,fem", "9007199254740993,fem")
    )
    assert counts(world.ingest()["exercise"]) == {"arrived": 2, "published": 1, "quarantined": 1}
    assert aside(world)["reasons"][0].to_list() == ["User_ID is missing"]
    assert rows(world)["User_ID"].to_list() == [9007199254740993]


def test_a_further_column_does_no_harm(world):
    head, *lines = (EXERCISE + GOOD).splitlines()
    (world.drop / "exercise.csv").write_text(
        "\n".join([head + ",Mood", *(line + ",fine" for line in lines)]) + "\n"
    )
    assert counts(world.ingest()["exercise"]) == {"arrived": 2, "published": 2}


class Killed(RuntimeError):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("survives", range(4))
def test_killed_at_any_commit_the_next_run_ends_with_the_same_table_and_ledger(world, survives):
    """Commits of a batch: intent, quarantine, published; the run dies before commit number `survives`."""
    (world.drop / "exercise.csv").write_text(EXERCISE + GOOD + "3,robot,30,180,80,20,100,39.5\n")
    append, left = world.tools.tables.append, [survives]

    def dying(*given):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        append(*given)

    whole = world.tools
    world.tools = replace(whole, tables=Dying(whole.tables, dying))
    try:
        world.ingest()
    except Killed:
        assert survives < 3
    world.tools = whole
    assert counts(world.ingest()["exercise"]) == {"arrived": 3, "published": 2, "quarantined": 1}
    assert counts(world.ingest()["exercise"]) == {"arrived": 3, "published": 2, "quarantined": 1}
    assert len(rows(world)) == 2


class Dying:
    """Tables whose append is another."""

    def __init__(self, tables, append):
        self.tables = tables
        self.append = append

    def __getattr__(self, name):
        return getattr(self.tables, name)


def test_a_step_run_twice_on_the_same_arrivals_publishes_once(world):
    (world.drop / "exercise.csv").write_text(EXERCISE + GOOD)
    arrivals = receive(world.tools, world.use_case, "exercise", NOW)
    assert receive(world.tools, world.use_case, "exercise", NOW) == arrivals
    checked = validate(world.tools, world.use_case, arrivals, NOW)
    assert publish(world.tools, world.use_case, checked) == publish(world.tools, world.use_case, checked)
    assert len(rows(world)) == 2


def test_rows_that_arrived_later_are_not_in_force_earlier(world):
    (world.drop / "exercise-1.csv").write_text(EXERCISE + GOOD)
    world.ingest()
    (world.drop / "exercise-2.csv").write_text(EXERCISE + "3,male,30,180,80,20,100,39.5\n")
    world.ingest(NOW + timedelta(hours=2))
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("exercise"))
    assert len(lake.in_force(world.tools.tables, at, NOW + timedelta(hours=1))) == 2
    assert len(lake.in_force(world.tools.tables, at, NOW + timedelta(hours=3))) == 3


def test_the_newest_arrival_too_old_is_a_warning_that_is_said(world):
    (world.drop / "exercise.csv").write_text(EXERCISE + GOOD)
    arrivals = receive(world.tools, world.use_case, "exercise", NOW)
    late = NOW + timedelta(days=30)
    checked = validate(world.tools, world.use_case, arrivals, late).batches[0]
    assert checked.warnings == ("the newest arrival is older than allowed",)
    assert checked.failed is None


def test_simulated_drops_pass_their_suites(world):
    write_drop(world.use_case, world.drop)
    for ledger in world.ingest().values():
        assert counts(ledger) == {"arrived": 8000, "published": 8000}


def test_the_real_merge_conflict_is_refused_whole_and_published_rows_stay(world):
    for name in ("exercise", "calories"):
        shutil.copyfile(real_data("calories", f"{name}.csv"), world.drop / f"{name}.csv")
    before = world.ingest()
    assert counts(before["exercise"]) == {"arrived": 11993, "published": 11993}
    table = rows(world)
    for name in ("exercise", "calories"):
        shutil.copyfile(
            real_data("messy", "calories_merge_conflict", f"{name}.csv"), world.drop / f"{name}-conflict.csv"
        )
    after = world.ingest()
    for ledger in after.values():
        assert counts(ledger) == {"arrived": 11993 + 23991, "published": 11993, "quarantined": 23991}
    assert rows(world).equals(table)
    assert "version-control conflict marker" in aside(world)["reasons"][0][0]
    (world.drop / "exercise-next.csv").write_text(EXERCISE + "3,male,30,180,80,20,100,39.5\n")
    assert world.ingest()["exercise"].published == 11994
