"""From counters and records to evidence: nothing twice, nothing of another arm, and a proxy that begins anew."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import catalog
from pipelines.predictions import replay
from pipelines.predictions.arms import Answers, Losses
from pipelines.rollout import counting, stages
from pipelines.rollout.counting import Counted
from pipelines.rollout.evidence import Rates
from pipelines.rollout.proxy import Counters
from pipelines.rollout.sequences import bin_of
from pipelines.rollout.serving import Place, Serving
from pipelines.rollout.stages import Entry, Rollout
from pipelines.spec import RolloutPlan, Shadow, Stage, UseCase

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CASE = catalog.load("calories")
ROLLOUT = Rollout(version="2", against="1", plan=RolloutPlan(), began=T0, since=T0)
LINES = {"a": "stable", "b": "stable", "c": "canary", "d": "leaving"}
SERVING = Serving(
    use_case="calories",
    version="1",
    places=tuple(
        Place(line=line, port=100 + at, version="1", tag="t", role=role, since=T0)
        for at, (line, role) in enumerate(LINES.items())
    ),
)


def counters(**told):
    """Of each line: requests, 5xx, failed connections, broken answers, redispatches."""
    return [
        Counters("calories", line, True, *numbers[:4], 0, *(numbers[4:] or (0,))) for line, numbers in told.items()
    ]


@pytest.mark.parametrize(
    ("numbers", "failed"),
    [
        ((9, 0, 0, 0, 0), 0),
        ((9, 0, 0, 0, 3), 3),  # refused, and answered by another line
        ((9, 0, 0, 2, 5), 5),  # two broke off, three were refused; another line answered all
        ((9, 0, 1, 0, 0), 1),  # no other line was there
        ((9, 2, 0, 0, 0), 2),
    ],
)
def test_a_line_failed_each_request_that_it_did_not_answer_well(numbers, failed):
    assert counters(a=numbers)[0].failed == failed


def test_the_first_look_at_a_stage_only_notes_where_the_counters_stand():
    counted = counting.with_rates(Counted(), SERVING, counters(a=(900, 9, 0, 0), c=(50, 5, 0, 0)))
    assert counted.rates == {}
    counted = counting.with_rates(counted, SERVING, counters(a=(910, 9, 0, 0), c=(53, 6, 1, 0)))
    assert counted.rates == {
        "champion": Rates(requests=10, errors=0), "challenger": Rates(requests=3, errors=2),
    }  # fmt: skip


def test_a_proxy_that_began_anew_is_counted_from_nothing_and_leaving_lines_are_nobodys():
    counted = counting.with_rates(Counted(), SERVING, counters(a=(900, 0, 0, 0), d=(70, 0, 0, 0)))
    counted = counting.with_rates(counted, SERVING, counters(a=(4, 1, 0, 0), d=(99, 9, 0, 0)))
    assert counted.rates == {"champion": Rates(requests=4, errors=1)}


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 5), max_size=20))
def test_there_are_never_more_errors_than_requests(steps):
    counted = Counted()
    for numbers in steps:
        counted = counting.with_rates(counted, SERVING, counters(c=numbers))
    rates = counted.rates.get("challenger", Rates())
    assert 0 <= rates.errors <= rates.requests


def test_latencies_fall_into_the_bins_of_their_arm_and_all_are_counted():
    counted = counting.with_latencies(Counted(), [("stable", 1.0), ("stable", 1.0), ("canary", 20.0)])
    counted = counting.with_latencies(counted, [("stable", 3.0)])
    assert sum(counted.latencies["champion"].bins.values()) == 3
    assert list(counted.latencies["challenger"].bins) == bin_of(np.array([20.0])).tolist()


def test_answers_to_one_request_are_compared_by_output_and_what_only_one_has_is_left_out():
    told = [
        Answers({"x": 3.0, "new": 1.0}, {"x": 5.0}, {"Gender": "male", "Age": 20.0}),
        Answers({"x": 7.0}, {"x": 4.0}, {"Gender": "female", "Age": 50.0}),
    ]
    counted = counting.with_answers(Counted(), CASE, told)
    evidence = counting.evidence_of(ROLLOUT, counted, T0)
    assert set(evidence.shift) == {"x"}
    assert (evidence.shift["x"].n, evidence.shift["x"].total) == (2, 1.0)
    assert (evidence.disagreement["x"].total, evidence.disagreement["x"].squares) == (5.0, 13.0)
    men = counted.slices["Gender=male"]["x"]
    assert (men.shift.n, men.shift.total, men.champion.total, men.challenger.total) == (1, -2.0, 5.0, 3.0)
    again = counting.with_answers(counted, CASE, told[:1])
    assert again.slices["Gender=male"]["x"].shift.n == 2


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=30), st.floats(0.01, 0.5))
def test_the_sums_of_weighed_pairs_are_those_of_the_pairs(pairs, allowed):
    c, s = np.array(pairs).T
    losses = Losses(len(pairs), c.sum(), s.sum(), (c * c).sum(), (s * s).sum(), (c * s).sum())
    counted = counting.with_paired(Counted(), losses, allowed)
    z = c - (1 + allowed) * s
    assert counted.paired.total == pytest.approx(z.sum(), abs=1e-9)
    assert counted.paired.squares == pytest.approx((z * z).sum(), abs=1e-6)


def test_a_new_stage_begins_its_own_counts_and_keeps_those_of_the_rollout():
    counted = Counted(seen=7, rates={"champion": Rates(requests=4)}, raw={"a": (4, 0)})
    counted = counting.with_answers(
        counted, CASE, [Answers({"x": 3.0}, {"x": 5.0}, {"Gender": "male", "Age": 20.0})]
    )
    after = counting.in_next_stage(counted)
    assert (after.rates, after.raw, after.latencies) == ({}, {}, {})
    assert (after.seen, after.slices) == (7, counted.slices)
    assert after.slices["all"]["x"].shift.n == 1
    assert Counted.model_validate_json(after.model_dump_json()) == after


def test_losses_that_are_not_paired_are_of_one_stage_and_pairs_of_the_whole_rollout():
    alone = counting.with_split(Counted(), ROLLOUT, {"1": (5, 2.0, 1.0), "2": (4, 3.0, 3.0)})
    assert alone.losses["challenger"].n == 4
    assert counting.in_next_stage(alone).losses == {}
    paired = counting.with_paired(Counted(), Losses(3, 1.0, 1.0, 1.0, 1.0, 1.0), 0.1)
    assert counting.in_next_stage(paired).losses == paired.losses


def test_evidence_says_how_long_stage_and_rollout_have_lasted():
    rollout = Rollout(version="2", against="1", plan=RolloutPlan(), began=T0, since=T0 + timedelta(minutes=1))
    evidence = counting.evidence_of(rollout, Counted(), T0 + timedelta(minutes=3))
    assert (evidence.seconds, evidence.whole_seconds) == (120, 180)


# --- replay -----------------------------------------------------------------------------------------------


def test_a_request_is_asked_again_as_it_was_and_rows_that_were_refused_keep_their_place():
    case = catalog.load("calories")
    inputs = {"Gender": "male", "Age": 30, "Weight": None}
    rows = [
        (1, "20000-x-0", "mine", "77", T0, inputs),
        (2, "20000-x-2", None, None, T0, inputs),
        (3, "20000-y-0", None, "5", T0, inputs),
    ]
    first, second = replay._whole(case, rows)
    assert (first.request_id, second.request_id) == ("20000-x", "20000-y")
    assert first.rows[1] == {}
    known = {"Gender": "male", "Age": 30, "event_time": T0.isoformat()}
    assert first.rows[0] == {**known, "User_ID": "77", "prediction_id": "mine"}
    assert first.rows[2] == known


def test_the_declared_share_is_chosen_by_the_request_alone():
    ids = [f"20000-{n}" for n in range(20_000)]
    chosen = [each for each in ids if replay.in_share(each, 0.2)]
    assert 0.19 < len(chosen) / len(ids) < 0.21
    assert all(replay.in_share(each, 0.5) for each in chosen), "a greater share holds the smaller one"
    assert not any(replay.in_share(each, 0) for each in ids)


# --- what the history says --------------------------------------------------------------------------------

PLAN = RolloutPlan(shadow=Shadow(), stages=(Stage(weight=5), Stage(weight=50)), cap=50)
ORDER = stages.labels(PLAN)


def history(*steps):
    """Changes, each into a stage, `end` or `held X`."""
    told, before = [], None
    for step in steps:
        after = None if step == "end" else before if step.startswith("held ") else step
        kind = "held" if step.startswith("held ") else "rolled back" if step == "end" else "rollout"
        told.append(
            Entry(
                at=T0, use_case="c", began=T0, version="2", stage_before=before, stage_after=after, percent=0,
                kind=kind, who="x", why=f"version 2: waits for an approval of {step[5:]} (…)",
            )
        )  # fmt: skip
        before = after
    return told


@pytest.mark.parametrize(
    ("steps", "over"),
    [
        (("prepared", "shadow"), ()),
        (("prepared", "shadow", "canary 5 %"), ("shadow",)),
        (("prepared", "shadow", "full"), ("shadow", "canary 5 %", "canary 50 %")),
        (("prepared", "shadow", "end"), ORDER),
    ],
)
def test_a_stage_is_over_when_it_was_left_or_passed_over_or_the_rollout_ended(steps, over):
    assert [each for each in ORDER if stages.over(history(*steps), each, ORDER)] == list(over)


def test_a_person_is_asked_only_while_the_stage_waits_for_it():
    waiting = history("prepared", "shadow", "held canary 50 %")
    assert [each for each in ORDER if stages.asked(waiting, each)] == ["canary 50 %"]
    assert not stages.asked(history("prepared", "shadow"), "canary 50 %")


# --- plans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"stages": ({"weight": 50}, {"weight": 5})}, "stages: their weights must ascend"),
        ({"stages": ({"weight": 5.001},)}, "stages.0.weight: the proxy splits by hundredths of a percent"),
        ({"stages": ({"weight": 100},)}, "stages.0.weight"),
        ({"stages": ({"weight": 30},)}, "cap: the first stage has 30 %"),
        ({"stages": ()}, "cap: without stages"),
        ({"shadow": {"share": 0, "pairs": 5}}, "shadow.pairs"),
        ({"shadow": {"share": 0}, "shift_at_most": {"x": 1.0}}, "shift_at_most"),
        ({"latency_worse_by_at_most": {"q95": 0.1}}, "latency_worse_by_at_most.q95"),
        ({"latency_worse_by_at_most": {"p95": 0}}, "latency_worse_by_at_most.p95: must be above 0"),
        ({"no_difference": "rollback", "stages": ({"weight": 5},)}, "no_difference"),
        ({"alpha": 0.7}, "alpha"),
        ({"sticky": True}, "sticky"),
    ],
)
def test_a_wrong_plan_is_refused_with_the_field_named(wrong, field):
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        RolloutPlan.model_validate(wrong)


def test_a_plan_that_the_use_case_cannot_honour_is_refused():
    case = catalog.load("calories")
    given = {name: getattr(case, name) for name in UseCase.model_fields}
    with pytest.raises(ValueError, match=r"rollout\.miscalibrated_by_at_most"):
        UseCase(**given | {"rollout": RolloutPlan(miscalibrated_by_at_most=0.1)})
    with pytest.raises(ValueError, match=r"rollout\.patience"):
        UseCase(**given | {"rollout": RolloutPlan(patience=timedelta(minutes=5))})
