"""What a run of Airflow wishes for, and why: schedule, person, labels, backfill."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

DUE = datetime(2026, 3, 2, 2, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def flows():
    """Declaring DAGs reads the settings of the environment only."""
    from dags import flows

    return flows


def run(kind, **given):
    return SimpleNamespace(**{"run_type": kind, "logical_date": DUE, "triggering_user_name": None, **given})


def test_a_scheduled_run_and_a_persons_run_say_who_asked(flows):
    assert flows.wish(run("scheduled"), {}, None).reason == "the schedule"
    by_hand = flows.wish(run("manual", triggering_user_name="jo"), {"force": False}, None)
    assert (by_hand.reason, by_hand.force) == ("asked for by jo in Airflow", False)


def test_the_form_is_taken_as_it_was_filled_in(flows):
    form = {"reason": "after the outage", "as_of": "2026-03-01T00:00:00+00:00", "snapshot": "abc", "force": True}
    wish = flows.wish(run("manual"), form, None)
    assert (wish.reason, wish.snapshot, wish.force) == ("after the outage", "abc", True)
    assert wish.as_of == datetime(2026, 3, 1, tzinfo=UTC)


def test_labels_that_asked_say_how_many(flows):
    told = {"labels": [SimpleNamespace(extra={"reason": "612 new labels, 500 ask for a training"})]}
    assert flows.wish(run("asset_triggered"), {}, told).reason == "612 new labels, 500 ask for a training"


def test_a_backfill_trains_as_of_its_own_date_whatever_the_form_says(flows):
    wish = flows.wish(run("backfill"), {"force": True}, None)
    assert (wish.reason, wish.as_of, wish.force) == ("backfill of 2026-03-02 02:15", DUE, False)


def test_only_a_use_case_that_labels_may_retrain_counts_them_and_validations_are_linked(flows):
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=flows.__file__)
    assert bag.import_errors == {}
    assert {"ingest_bets", "retrain_bets", "ingest_calories", "retrain_calories", "labels_calories"} == set(
        bag.dags
    )
    validate = bag.dags["ingest_calories"].get_task("exercise.validate")
    assert [link.name for link in validate.operator_extra_links] == ["Data Docs"]
    order = [task.task_id for task in bag.dags["ingest_bets"].topological_sort()]
    assert order == [f"matches.{step}" for step in ("receive", "validate", "publish", "hand_over")]


def _kept(made):
    """Airflow's decorator, whose DAGs are kept here."""
    from airflow.sdk import dag

    def declared(name, schedule=None, **given):
        return lambda body: lambda: made.append(dag(name, schedule=schedule, **given)(body)())

    return declared


def test_a_rollout_is_shown_stage_by_stage_and_asks_a_person_where_the_plan_says_so(flows, monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    from dags import rollouts, waits
    from pipelines import catalog
    from pipelines.spec import RolloutPlan, Stage

    bag = DagBag(dag_folder=rollouts.__file__)
    assert bag.import_errors == {}
    assert set(bag.dags) == {"rollout_bets", "rollout_calories"}
    order = [task.task_id for task in bag.dags["rollout_calories"].topological_sort()]
    assert order == ["shadow", "canary_5", "canary_25", "canary_50", "full", "watch"]
    plan = RolloutPlan(stages=(Stage(weight=5), Stage(weight=12.5, approval=True)), full_approval=True)
    assert rollouts.wanting(plan) == {"canary 12.5 %", "full"}
    monkeypatch.setattr(rollouts, "dag", _kept(made := []))
    rollouts.declare(catalog.load("calories").model_copy(update={"rollout": plan}))
    (asked,) = made
    upstream = {task.task_id: task.upstream_task_ids for task in asked.tasks}
    assert upstream["before_full"] == {"canary_5"}, "a person is asked while the stage before still lasts"
    assert upstream["full"] == {"canary_12_5", "order_full"}
    again = waits.StageTrigger("calories", "2026-01-01T00:00:00+00:00", "full", False)
    path, given = again.serialize()
    assert path == "dags.waits.StageTrigger"
    assert waits.StageTrigger(**given).serialize() == again.serialize()
