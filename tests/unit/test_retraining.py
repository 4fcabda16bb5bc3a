"""From published rows to a version that may serve: real training, real gate, shipped fakes around it."""

import json
import shutil
from datetime import timedelta

import numpy as np
import pytest

from pipelines import flows, rows
from pipelines.errors import BadRelease, BadSettings, CheckFailed, GateRefused, NotEnoughData
from pipelines.records import Wish
from pipelines.steps import gate as gating
from pipelines.steps.adopt import adopt
from pipelines.steps.check import compare
from pipelines.steps.due import due
from pipelines.steps.train import assembled, judged_rows
from tests.builders import NOW, World, real_data, replace, write_drop


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("trained"))
    write_drop(world.use_case, world.drop)
    world.ingest()
    world.promotion = flows.retraining(world.do, Wish(), NOW)
    return world


@pytest.fixture
def world(tmp_path):
    """A small world of its own: 8,000 rows, 20 trees."""
    made = World(tmp_path)
    write_drop(made.use_case, made.drop)
    made.ingest()
    return made


def few_trees(world, n=20, floor=20.0, **changed):
    gate = world.use_case.gate.model_copy(update={"at_most": floor})
    part = world.use_case.parts[0]
    quick = part.model_copy(update={"parameters": {**part.parameters, "n_estimators": n, "learning_rate": 0.5}})
    world.use_case = world.use_case.model_copy(update={"parts": (quick,), "gate": gate, **changed})
    return world


def record(world):
    (only,) = world.tools.evidence.book.values()
    return only


def test_the_first_run_ends_with_a_version_that_may_serve(trained):
    evidence = record(trained)
    assert trained.promotion.asked_now
    assert evidence.may_serve
    assert evidence.gate.champion is None
    assert evidence.metrics["rmse"] < trained.use_case.gate.at_most


def test_the_evidence_names_data_code_lock_seed_and_suites(trained):
    evidence = record(trained)
    assert evidence.snapshot.rows == {"exercise": 8000, "burnt": 8000}
    assert set(evidence.snapshot.suites) == {"exercise", "burnt"}
    assert [len(x) for x in (evidence.code_digest, evidence.lock_digest, evidence.snapshot.digest)] == [64] * 3
    assert (evidence.seed, evidence.version, evidence.bento_tag) == (0, "1", "calories:v1")


def test_the_second_run_on_the_same_rows_trains_nothing_and_names_the_first(trained):
    again = flows.retraining(trained.do, Wish(), NOW + timedelta(hours=1))
    assert not again.asked_now
    assert again.version == "1"
    assert "nothing new: version 1 was promoted on 2026-01-15 12:00:00 UTC" in again.reason
    assert len(trained.tools.evidence.book) == 1


def test_no_held_out_row_is_trained_on_and_the_choice_never_changes(trained):
    snapshot = record(trained).snapshot
    judged = judged_rows(trained.tools, trained.use_case, snapshot)
    learnt = rows.training_rows(trained.use_case, assembled(trained.tools, trained.use_case, snapshot))
    assert not set(judged["User_ID"]) & set(learnt["User_ID"])
    assert judged.height + learnt.height == 8000
    assert 0.17 < judged.height / 8000 < 0.23
    assert sorted(judged["User_ID"])[:3] == [10000003, 10000023, 10000027]


def test_the_entity_is_no_feature(trained):
    model = trained.tools.tracker.folder(record(trained).run_id)
    manifest = json.loads((model / "release" / "release.json").read_text())
    assert "User_ID" not in manifest["feature_names"]
    assert "User_ID" not in manifest["ranges"]


def test_the_release_holds_its_code_its_golden_rows_and_no_pickle(trained):
    model = trained.tools.tracker.folder(record(trained).run_id)
    names = {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    assert {
        "release/energy.ubj",
        "release/energy.onnx",
        "release/golden.json",
        "plots/held_out_calories.png",
    } <= names
    assert {"code/pipelines/spec.py", "code/pipelines/use_cases/calories.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_training_twice_gives_the_same_bytes(world, tmp_path):
    few_trees(world)
    flows.retraining(world.do, Wish(), NOW)
    first = world.tools.tracker.folder(record(world).run_id) / "release" / "energy.ubj"
    kept = first.read_bytes()
    world.tools.evidence.book.clear()
    world.tools.tracker.keys.clear()
    shutil.rmtree(first.parents[1])
    flows.retraining(world.do, Wish(), NOW)
    assert first.read_bytes() == kept


def test_a_model_made_worse_on_purpose_is_refused_by_the_interval(world):
    flows.retraining(few_trees(world, 200).do, Wish(), NOW)
    world.tools.registry.point("calories", "champion", "1")
    with pytest.raises(GateRefused, match=r"against version 1: \+.* margin \+0\.25"):
        flows.retraining(few_trees(world, 15).do, Wish(), NOW)
    assert [each.may_serve for each in world.tools.evidence.book.values()] == [True, False]
    assert world.tools.registry.runs["calories"] == ["run1"]


def test_a_model_above_the_floor_is_refused_without_a_champion_too(world):
    with pytest.raises(GateRefused, match=r"floor 3$"):
        flows.retraining(few_trees(world, 2, floor=3).do, Wish(), NOW)


def test_an_equal_model_passes_the_gate(world):
    flows.retraining(world.do, Wish(), NOW)
    world.tools.registry.point("calories", "champion", "1")
    world.use_case = world.use_case.model_copy(update={"seed": 1})
    again = flows.retraining(world.do, Wish(), NOW)
    assert again.version == "2"


def test_too_few_rows_to_judge_by_stop_the_training(tmp_path):
    world = World(tmp_path)
    exercise, burnt = world.use_case.simulate(7, 0).values()
    exercise.head(150).write_csv(world.drop / "exercise.csv")
    burnt.head(150).write_csv(world.drop / "calories.csv")
    world.ingest()
    with pytest.raises(NotEnoughData, match=r"held out; gate\.minimum_rows asks for 100"):
        flows.retraining(world.do, Wish(), NOW)


def test_nothing_published_is_said(tmp_path):
    with pytest.raises(NotEnoughData, match=r"nothing is published yet in exercise, burnt"):
        flows.retraining(World(tmp_path).do, Wish(), NOW)


class Killed(RuntimeError):
    """What a kill looks like from inside."""


STEPS = ("train", "gate", "register", "build", "check", "promote")


@pytest.mark.parametrize("after", STEPS)
def test_killed_after_any_step_the_next_run_ends_with_one_candidate_and_one_version(world, after):
    few_trees(world, 60)

    def dying(step):
        run = world.do(step)

        def die_after(*given):
            result = run(*given)
            if step.__name__ == after:
                raise Killed
            return result

        return die_after

    with pytest.raises(Killed):
        flows.retraining(dying, Wish(), NOW)
    done = flows.retraining(world.do, Wish(), NOW)
    assert done.version == "1"
    assert record(world).may_serve
    assert world.tools.registry.runs["calories"] == ["run1"]
    assert done.asked_now == (after != "promote")


@pytest.mark.parametrize("lost", ["train", "gate", "register", "build", "check", "promote"])
def test_killed_inside_a_step_before_its_record_the_next_run_finds_the_work(world, lost):
    """The service's write happened, the record of it did not."""
    few_trees(world, 60)
    book = world.tools.evidence

    class Forgetful:
        by_key, by_version = book.by_key, book.by_version
        field = {"gate": "gate", "register": "version", "build": "bento_tag", "check": "check"}.get(
            lost, "promotion_asked_at"
        )

        def add(self, evidence):
            if lost == "train":
                raise Killed
            return book.add(evidence)

        def amend(self, key, **fields):
            if self.field in fields:
                raise Killed
            return book.amend(key, **fields)

    kept, world.tools = world.tools, replace(world.tools, evidence=Forgetful())
    with pytest.raises(Killed):
        flows.retraining(world.do, Wish(), NOW)
    world.tools = kept
    assert flows.retraining(world.do, Wish(), NOW).asked_now
    assert record(world).may_serve
    assert len(kept.tracker.keys) == 1
    assert kept.registry.runs["calories"] == ["run1"]


def newest(world):
    return list(world.tools.evidence.book.values())[-1]


def grown(world, when, drop=1):
    """One more drop, ingested at that time."""
    write_drop(world.use_case, world.drop, drop)
    world.ingest(when)


LATER = NOW + timedelta(days=1)


def test_the_run_shows_why_it_was_trained(world):
    flows.retraining(few_trees(world, 60).do, Wish(reason="500 new labels, 400 ask for a training"), NOW)
    assert world.tools.tracker.notes[newest(world).run_id]["touchline.reason"].startswith("500 new labels")


def test_a_training_as_of_a_past_time_sees_only_what_had_arrived_and_is_not_asked_to_serve(world):
    gate = few_trees(world, 60).use_case.gate.model_copy(update={"worse_by_at_most": 2.0})
    world.use_case = world.use_case.model_copy(update={"gate": gate})
    grown(world, LATER)
    flows.retraining(world.do, Wish(), LATER)
    world.tools.registry.point("calories", "champion", "1")
    assert newest(world).snapshot.rows["exercise"] == 8400
    past = flows.retraining(world.do, Wish(reason="backfill", as_of=NOW), LATER)
    assert newest(world).snapshot.rows["exercise"] == 8000
    assert newest(world).may_serve
    assert (past.version, past.asked_now) == ("2", False)
    assert (
        "is not asked to serve: its rows end 2026-01-15 12:00, those of the champion 1 2026-01-16" in past.reason
    )
    forced = flows.retraining(world.do, Wish(as_of=NOW, force=True), LATER)
    assert (forced.version, forced.asked_now) == ("2", True)


def test_a_training_on_a_snapshot_taken_before_finds_its_rows_again(world):
    few_trees(world, 60)
    flows.retraining(world.do, Wish(), NOW)
    digest = newest(world).snapshot.digest
    grown(world, LATER)
    again = flows.retraining(world.do, Wish(snapshot=digest[:10]), LATER)
    assert (len(world.tools.evidence.book), again.version) == (1, "1")
    with pytest.raises(NotEnoughData, match=rf"0 snapshots begin with 'beef'; there are: {digest[:12]}"):
        flows.retraining(world.do, Wish(snapshot="beef"), LATER)


def test_a_training_as_of_the_future_is_refused(world):
    with pytest.raises(BadSettings, match="is in the future"):
        flows.retraining(world.do, Wish(as_of=LATER), NOW)


def test_a_backfill_of_a_time_before_any_rows_says_so(world):
    with pytest.raises(NotEnoughData, match="nothing is published yet"):
        flows.retraining(world.do, Wish(as_of=NOW - timedelta(days=9)), NOW)


def test_a_refused_candidate_that_somebody_registers_by_hand_is_judged_and_may_serve_after_build_and_check(world):
    with pytest.raises(GateRefused):
        flows.retraining(few_trees(world, 60, floor=0.001).do, Wish(), NOW)
    refused = newest(world)
    by_hand = world.tools.registry.register(world.use_case, refused.run_id, {})
    assert adopt(world.tools, world.use_case, by_hand).training_key == refused.training_key
    few_trees(world, 60, floor=20)
    gated = world.do(gating.gate)(adopt(world.tools, world.use_case, by_hand), Wish(force=True))
    assert flows.building(world.do, gated).built.registered.version == by_hand
    assert newest(world).may_serve


def test_a_version_of_unknown_rows_and_code_is_refused(world):
    world.tools.registry.register(world.use_case, "a run of somebody's notebook", {})
    with pytest.raises(BadRelease, match=r"version 1 comes from no training of this platform"):
        adopt(world.tools, world.use_case, "1")
    with pytest.raises(BadRelease, match="calories has no version 7"):
        adopt(world.tools, world.use_case, "7")


def test_enough_labels_ask_for_a_training_once(world):
    claims = world.tools.claims
    assert not due(world.tools, world.use_case, NOW).due
    flows.retraining(few_trees(world, 60, retrain_after_labels=3).do, Wish(), NOW)
    claims.labelled["calories"] = {f"p{each}": NOW + timedelta(minutes=each) for each in range(1, 5)}
    assert not due(world.tools, world.use_case, NOW + timedelta(minutes=2)).due
    asked = due(world.tools, world.use_case, NOW + timedelta(minutes=10))
    assert (asked.due, asked.labels, asked.reason) == (True, 4, "4 new labels, 3 ask for a training")
    assert due(world.tools, world.use_case, NOW + timedelta(minutes=10)) == asked
    assert not due(world.tools, world.use_case, NOW + timedelta(minutes=20)).due


def test_a_bento_that_answers_otherwise_fails_the_check(world):
    few_trees(world, 60)
    ask = world.tools.builder.ask
    wrong = lambda *given: {name: values + 1 for name, values in ask(*given).items()}  # ruff: ignore[lambda-assignment]
    world.tools.builder.ask = wrong
    with pytest.raises(CheckFailed, match=r"largest difference"):
        flows.retraining(world.do, Wish(), NOW)
    assert not record(world).may_serve


def test_a_nan_never_counts_as_parity(trained):
    offline = {"calories": np.array([1.0, 2.0])}
    assert not compare(trained.use_case, offline, {"calories": np.array([1.0, np.nan])}).passed


def test_a_nan_never_passes_the_gate(trained):
    nan = {"calories": np.full(500, np.nan)}
    verdict = gating.judge(gating.Judged(trained.use_case, {}, np.ones(500), nan, None, None))
    assert not verdict.passed


def test_real_persons_are_predicted_within_three_kcal(tmp_path):
    world = World(tmp_path)
    for name in ("exercise", "calories"):
        shutil.copyfile(real_data("calories", f"{name}.csv"), world.drop / f"{name}.csv")
    world.ingest()
    flows.retraining(world.do, Wish(), NOW)
    evidence = record(world)
    assert 1 < evidence.metrics["rmse"] < 3
    assert evidence.may_serve
