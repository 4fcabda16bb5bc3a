"""The quarantine: rows leave it once, published after a fix or given up, and the ledger adds up."""

import json
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from pipelines import lake
from pipelines.records import Chosen, CleanSnapshot
from pipelines.runner import here
from pipelines.steps.quarantine import discard, replay
from pipelines.tools import Evidence
from tests.builders import NOW
from tests.unit.test_files import EVENTS, HEAD, at, events_world, ingest, put, rows

LATER = NOW + timedelta(hours=3)


def rule(kind, name, severity="warning", **kwargs):
    return {
        "type": kind,
        "severity": severity,
        "kwargs": kwargs,
        "meta": {"id": name, "reason": f"{name} is broken"},
    }


def between(most, name="amount"):
    return rule("expect_column_values_to_be_between", name, column="amount", max_value=most)


def volume(least):
    return rule("expect_table_row_count_to_be_between", "volume", "critical", min_value=least)


@pytest.fixture
def world(tmp_path):
    return events_world(tmp_path, rules=[between(10)])


def set_rules(world, *rules):
    file = world.tools.found.expectations / "events.json"
    file.write_text(json.dumps({"name": "events", "expectations": list(rules)}))


def again(world, chosen=None, fixed=None, now=LATER):
    told = here(world.tools, world.use_case)(replay)("events", chosen or Chosen(), fixed, now)
    return told.model_dump(exclude={"table"}, exclude_defaults=True)


def give_up(world, chosen=None):
    return here(world.tools, world.use_case)(discard)(
        "events", chosen or Chosen(), "Jo", "not to be mended", LATER
    )


def counts(world):
    ledger = lake.ledger(world.tools.tables, at(world))
    assert ledger.balanced
    return ledger.model_dump(exclude={"table"}, exclude_defaults=True)


BAD = HEAD + "1,a,,5\n2,b,,50\n3,c,,60\n4,d,,x\n"


def test_after_a_fix_of_the_rule_rows_are_published_once_however_often_it_is_replayed(world):
    put(world, "events.csv", BAD)
    assert ingest(world) == {"arrived": 4, "published": 1, "quarantined": 3}
    assert again(world) == {
        "published": 0,
        "revised": 0,
        "duplicate": 0,
        "broken": 3,
        "unknown": 0,
        "trained_without": (),
    }
    set_rules(world, between(55))
    assert again(world)["published"] == 1
    set_rules(world, between(100))
    assert (again(world)["published"], again(world)["published"]) == (1, 0)
    assert counts(world) == {"arrived": 4, "published": 3, "quarantined": 1}
    assert [row[0] for row in rows(world)] == [1, 2, 3]


def test_a_replayed_row_keeps_its_file_and_row_and_was_not_in_force_before(world):
    put(world, "events.csv", BAD)
    ingest(world)
    set_rules(world, between(55))
    again(world)
    before = lake.in_force(world.tools.tables, at(world), LATER - timedelta(minutes=1))
    after = lake.in_force(world.tools.tables, at(world), LATER)
    assert (before["id"].to_list(), after["id"].to_list()) == ([1], [1, 2])
    assert after.select("_file", "_batch", "_row", "_revision").row(1) == ("events.csv", 1, 2, 1)


def test_corrected_rows_are_published_and_those_that_do_not_wait_are_told(world):
    put(world, "events.csv", BAD)
    ingest(world)
    fixed = pl.DataFrame({
        "_batch": ["1", "1", "1"],
        "_row": ["2", "4", "1"],
        "id": ["2", "4", "1"],
        "who": ["b", "d", "a"],
        "amount": ["5.5", "y", "7"],
    })
    told = again(world, fixed=fixed)
    assert (told["published"], told["broken"], told["unknown"]) == (1, 2, 1)
    assert again(world, fixed=fixed)["published"] == 0
    assert counts(world) == {"arrived": 4, "published": 2, "quarantined": 2}
    assert rows(world) == [(1, "a", None, 5.0), (2, "b", None, 5.5)]
    kept = world.tools.tables.scan(at(world).aside).filter(pl.col("kind") == lake.RELEASED).collect()
    assert json.loads(kept["raw"].item())["amount"] == "5.5"


def test_a_row_as_it_came_does_not_overtake_a_later_one_a_corrected_row_does(world):
    put(world, "events-1.csv", BAD)
    ingest(world)
    put(world, "events-2.csv", HEAD + "2,b,,6\n")
    ingest(world)
    set_rules(world, between(55))
    told = again(world, Chosen(reason="amount is broken"))
    assert (told["published"], told["duplicate"], told["broken"]) == (0, 1, 2)
    assert rows(world)[-1] == (2, "b", None, 6.0)
    fixed = pl.DataFrame({"_batch": ["1"], "_row": ["3"], "id": ["2"], "who": ["b"], "amount": ["8"]})
    assert again(world, fixed=fixed)["revised"] == 1
    assert (2, "b", None, 8.0) in rows(world)
    assert counts(world) == {"arrived": 5, "published": 2, "revised": 1, "duplicate": 1, "quarantined": 1}


def test_a_batch_that_was_refused_as_such_comes_back_only_when_the_rule_about_it_holds(world):
    set_rules(world, volume(5))
    put(world, "events.csv", BAD.replace("x", "7"))
    assert ingest(world) == {"arrived": 4, "quarantined": 4}
    give_up(world, Chosen(reason="no such reason"))
    assert again(world, Chosen(batch=1))["published"] == 0
    set_rules(world, volume(1), between(10))
    assert again(world)["published"] == 2
    assert counts(world) == {"arrived": 4, "published": 2, "quarantined": 2}


def test_a_file_that_could_not_be_read_is_replayed_when_the_declaration_is_mended(world):
    put(world, "events.csv", "nummer;wer\n1;a\n2;b\nx;c\n")
    assert ingest(world) == {"arrived": 4, "quarantined": 4}
    assert again(world)["published"] == 0
    renamed = {"id": "nummer", "who": "wer"}
    columns = tuple(each.model_copy(update={"name": renamed.get(each.name, each.name)}) for each in EVENTS.columns)
    table = EVENTS.model_copy(update={"key": ("nummer",), "columns": columns})
    world.use_case = world.use_case.model_copy(update={"tables": (table,)})
    set_rules(world)
    assert (again(world)["published"], again(world)["published"]) == (2, 0)
    assert counts(world) == {"arrived": 4, "published": 2, "quarantined": 1, "discarded": 1}
    waits = lake.waiting(world.tools.tables, at(world))
    assert waits.select("row", "reasons").rows() == [(3, ["nummer: x is not a whole number"])]


def test_what_is_given_up_is_counted_with_who_and_why(world):
    put(world, "events.csv", BAD)
    put(world, "events-2.csv", "no table at all\n")
    ingest(world)
    assert give_up(world, Chosen(reason="is not a number")).rows == 1
    assert give_up(world, Chosen(batch=2)).rows == 1
    assert give_up(world, Chosen(batch=2)).rows == 0
    assert counts(world) == {"arrived": 5, "published": 1, "quarantined": 2, "discarded": 2}
    kept = world.tools.tables.scan(at(world).aside).filter(pl.col("kind") == lake.DISCARDED).collect()
    assert kept.sort("batch").select("by", "reasons", "row").rows() == [
        ("Jo", ["not to be mended"], 4),
        ("Jo", ["not to be mended"], None),
    ]
    assert ingest(world)["discarded"] == 2


class Killed(RuntimeError):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("ingests_between", [False, True])
@pytest.mark.parametrize("survives", range(2))
def test_killed_at_any_commit_a_replay_is_finished_by_the_next_run_of_either_kind(
    world, survives, ingests_between
):
    put(world, "events-1.csv", BAD)
    ingest(world)
    set_rules(world, between(100))
    kept, left = world.tools, [survives]

    class Dying(type(kept.tables)):
        def append(self, *given):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            super().append(*given)

    world.tools = replace(kept, tables=Dying())
    with pytest.raises(Killed):
        again(world)
    world.tools = kept
    if ingests_between:
        put(world, "events-2.csv", HEAD + "2,changed,,1\n")
        ingest(world)
    again(world)
    again(world)
    ledger = counts(world)
    assert ledger["quarantined"] == 1
    found = {row[0]: row[1] for row in rows(world)}
    assert found == {1: "a", 2: "changed" if ingests_between else "b", 3: "c"}


def test_models_that_were_trained_without_the_replayed_rows_are_named(world):
    put(world, "events.csv", BAD)
    ingest(world)
    version = world.tools.tables.version(at(world).published)
    snapshot = CleanSnapshot(
        use_case="calories", as_of=NOW, versions={"events": version}, rows={}, suites={}, digest="d"
    )
    for number in ("1", "2"):
        world.tools.evidence.add(
            Evidence(
                training_key=number, use_case=world.use_case.name, run_id="r", snapshot=snapshot, code_digest="",
                git_commit=None, lock_digest="", seed=0, metrics={}, created_at=NOW, version=number,
            )
        )  # fmt: skip
    assert again(world)["trained_without"] == ()
    set_rules(world, between(55))
    assert again(world)["trained_without"] == ("1", "2")


def test_a_quarantine_of_the_version_before_is_read_and_replayed(world):
    """Its lines had no `by`."""
    put(world, "events.csv", BAD)
    ingest(world)
    uri = at(world).aside
    old = world.tools.tables.scan(uri).drop("by").collect()
    fresh = events_world_copy(world)
    fresh.tools.tables.append(at(fresh).aside, old, lake.PUBLISH, 1)
    for name, app in (("batches", lake.RECEIVE), ("published", lake.PUBLISH)):
        frame = world.tools.tables.scan(getattr(at(world), name)).collect()
        fresh.tools.tables.append(getattr(at(fresh), name), frame, app, 1)
    assert len(lake.waiting(fresh.tools.tables, at(fresh))) == 3
    set_rules(fresh, between(100))
    assert again(fresh)["published"] == 2
    assert counts(fresh) == {"arrived": 4, "published": 3, "quarantined": 1}


def events_world_copy(world):
    other = object.__new__(type(world))
    other.use_case, other.drop = world.use_case, world.drop
    other.tools = replace(world.tools, tables_at=world.tools.tables_at + "-old")
    return other


def test_labels_of_rows_that_came_back_are_handed_over_once(world):
    def tell(found):
        return found.select(entity=pl.col("who"), actual="amount")

    world.use_case = world.use_case.model_copy(update={"labels": {"events": tell}})
    put(world, "events.csv", BAD)
    ingest(world)
    set_rules(world, between(55))
    again(world)
    for _ in range(2):
        ingest(world)
        handed = [(name, number) for (_, name), number in world.tools.labels.batches.items()]
    assert handed == [("events", 1), ("events/replay", 1)]
    assert [(one.key, one.actual) for _, one in world.tools.labels.kept] == [
        ("a", 5.0),
        ("b", 50.0),
    ]
