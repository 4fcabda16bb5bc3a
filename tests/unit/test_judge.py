"""The judge: each verdict, what it waits for, and how alpha is split."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pipelines.rollout import sequences
from pipelines.rollout.evidence import Evidence, Latencies, Least, Moments, Rates, Verdict
from pipelines.rollout.judge import FEWEST_ERRORS, FLOOR, judge
from pipelines.spec import RolloutPlan, Shadow, Stage
from tests.benchmarks import judge as simulated

PLAN = RolloutPlan(latency_worse_by_at_most={"p95": 0.5})
FAST, SLOW, BOTH, NONE = (
    Least(fast=500, slow=0),
    Least(fast=0, slow=200),
    Least(fast=500, slow=200),
    Least(fast=0, slow=0),
)


def moments(n, mean, sd):
    return Moments(n=n, total=n * mean, squares=n * (sd**2 + mean**2))


def rates(challenger, champion):
    return {
        "challenger": Rates(requests=challenger[1], errors=challenger[0]),
        "champion": Rates(requests=champion[1], errors=champion[0]),
    }


def latencies(n, factor=1.0, seed=5):
    drawn = np.random.default_rng(seed).lognormal(1, 0.4, n) * factor
    places, found = np.unique(sequences.bin_of(drawn), return_counts=True)
    return Latencies(bins=dict(zip(places.tolist(), found.tolist(), strict=True)))


def labelled(n, worse, noise=0.1, allowed=PLAN.loss_worse_by_at_most):
    """Labelled pairs whose challenger's loss is so much worse, relative to the champion's 2."""
    return {
        "paired": moments(n, 2 * (worse - allowed), noise),
        "plain": moments(n, 2 * worse, noise),
        "losses": {"challenger": moments(n, 2 * (1 + worse), 1.0), "champion": moments(n, 2.0, 1.0)},
    }


def seen(errors=(100, 10_000), n=10_000, slower=1.0, worse=0.0, labels=5000, **more):
    """A canary whose champion fails in 1 % of 90,000; healthy unless said otherwise."""
    return Evidence(**{
        "seconds": 3600.0,
        "whole_seconds": 7200.0,
        "rates": rates(errors, (900, 90_000)),
        "latencies": {"challenger": latencies(n, slower), "champion": latencies(9 * n, seed=6)},
        **labelled(labels, worse),
        **more,
    })


def finding(verdict, metric):
    (found,) = [each for each in verdict.findings if each.metric == metric]
    return found


def test_an_equal_model_is_promoted_when_all_samples_are_there():
    verdict = judge(PLAN, seen(), "canary", BOTH)
    assert verdict.verdict == "PROMOTE"
    assert [each.metric for each in verdict.findings] == ["errors", "latency p95", "loss"]
    assert verdict.why == (
        "errors, latency p95, loss surely not worse than allowed, on 10000 requests and 5000 labelled pairs"
    )
    assert (verdict.better, verdict.same) == (False, True)


def test_a_shadow_of_which_nothing_is_bounded_waits_for_its_pairs_and_says_so():
    pairs = {"disagreement": {"y": moments(60, 0.1, 0.1)}}
    verdict = judge(RolloutPlan(), Evidence(whole_seconds=60, **pairs), "shadow", Least(fast=50, slow=0))
    assert (verdict.verdict, verdict.why) == ("PROMOTE", "nothing is judged here, on 60 pairs")


@pytest.mark.parametrize(
    ("given_evidence", "metric"),
    [
        (seen(errors=(400, 10_000)), "errors"),
        (seen(slower=2.0), "latency p95"),
        (seen(worse=0.08), "loss"),
    ],
)
def test_one_metric_that_is_surely_worse_rolls_back_whatever_the_others_say(given_evidence, metric):
    verdict = judge(PLAN, given_evidence, "canary", BOTH)
    assert verdict.verdict == "ROLLBACK"
    assert {each.metric for each in verdict.findings if each.verdict == "ROLLBACK"} == {metric}
    assert verdict.why.startswith(metric)
    assert "allowed" in verdict.why


def test_the_reason_is_a_sentence_with_its_numbers():
    why = judge(PLAN, seen(worse=0.083), "canary", BOTH).why
    assert why.startswith("loss 8.3 % [8.")
    assert why.endswith("worse than the champion's, allowed 5 %, on 5000 labelled pairs")
    why = judge(PLAN, seen(errors=(400, 10_000)), "canary", BOTH).why
    assert why.startswith("errors 3 points [")
    assert why.endswith("more than the champion's, allowed 1 points, on 10000 requests")


def test_below_its_declared_sample_a_healthy_model_is_held_and_the_reason_says_for_how_much_longer():
    verdict = judge(PLAN, seen(), "canary", Least(fast=10_500, slow=5120))
    assert verdict.verdict == "HOLD"
    assert finding(verdict, "errors").needs == 500
    assert finding(verdict, "errors").seconds == pytest.approx(180)
    assert finding(verdict, "loss").needs == 120
    assert verdict.why == "waits for 500 more requests for errors, about 3 min at the present rate"


def test_a_model_that_fails_is_rolled_back_long_before_its_sample_but_not_by_a_few_errors():
    failing = seen(errors=(20, 20), rates=rates((20, 20), (2, 180)))
    assert judge(PLAN, failing, "canary", BOTH).verdict == "ROLLBACK"
    few = FEWEST_ERRORS - 1
    unlucky = seen(rates=rates((few, few), (0, 10**6)))
    assert judge(PLAN, unlucky, "canary", BOTH).verdict == "HOLD"


def test_means_say_nothing_below_their_floor():
    for n, word in ((FLOOR - 1, "HOLD"), (FLOOR, "ROLLBACK")):
        verdict = judge(PLAN, seen(labels=n, worse=1.0), "canary", BOTH)
        assert verdict.verdict == word
    found = finding(judge(PLAN, seen(labels=40, worse=1.0), "canary", FAST), "loss")
    assert (found.lower, found.upper, found.needs, found.value) == (None, None, FLOOR - 40, pytest.approx(1.0))


def test_a_clock_with_nothing_declared_is_not_waited_for_but_rolls_back():
    unknown = seen(labels=0, paired=Moments(), plain=Moments(), losses={})
    assert judge(PLAN, unknown, "canary", FAST).verdict == "PROMOTE"
    assert judge(PLAN, unknown, "canary", BOTH).verdict == "HOLD"
    assert judge(PLAN, seen(worse=0.2), "canary", FAST).verdict == "ROLLBACK"
    assert judge(PLAN, Evidence(), "watch", NONE).verdict == "PROMOTE"


def test_only_a_canary_is_judged_by_what_clients_meet():
    dying = seen(errors=(5000, 10_000), slower=9.0)
    for kind in ("shadow", "watch"):
        verdict = judge(PLAN, dying, kind, SLOW)
        assert [each.metric for each in verdict.findings] == ["loss"]
        assert verdict.verdict == "PROMOTE"


def test_a_shadow_waits_for_its_pairs_even_where_no_metric_is_made_of_them():
    few = Evidence(whole_seconds=60, disagreement={"calories": moments(150, 1.0, 1.0)})
    verdict = judge(PLAN, few, "shadow", Least(fast=200, slow=0))
    assert verdict.verdict == "HOLD"
    assert verdict.why == "waits for 50 more pairs, about 20 s at the present rate"
    enough = Evidence(whole_seconds=60, disagreement={"calories": moments(200, 1.0, 1.0)})
    assert judge(PLAN, enough, "shadow", Least(fast=200, slow=0)).verdict == "PROMOTE"


def test_when_nothing_comes_the_wait_has_no_length():
    verdict = judge(PLAN, Evidence(seconds=9, whole_seconds=9), "canary", BOTH)
    assert verdict.verdict == "HOLD"
    assert verdict.why == "waits for 500 more requests for errors; none come at present"
    assert {each.seconds for each in verdict.findings} == {None}


ANSWERS = RolloutPlan(disagreement_at_most={"y": 1.0}, shift_at_most={"y": 0.5}, latency_worse_by_at_most={})


@pytest.mark.parametrize(
    ("apart", "shift", "word"),
    [(0.8, 0.0, "PROMOTE"), (1.2, 0.0, "ROLLBACK"), (0.8, 0.7, "ROLLBACK"), (0.8, -0.7, "ROLLBACK"),
     (1.0, 0.0, "HOLD"), (0.8, -0.5, "HOLD")],
)  # fmt: skip
def test_answers_may_not_lie_too_far_apart_nor_move_to_either_side(apart, shift, word):
    pairs = Evidence(
        whole_seconds=60,
        disagreement={"y": moments(4000, apart, 1.0)},
        shift={"y": moments(4000, shift, 1.0)},
    )
    assert judge(ANSWERS, pairs, "shadow", FAST).verdict == word


@pytest.mark.parametrize(("off", "word"), [(0.0, "PROMOTE"), (0.2, "ROLLBACK"), (-0.2, "ROLLBACK"), (0.1, "HOLD")])
def test_probabilities_must_mean_what_they_say_on_both_sides(off, word):
    plan = RolloutPlan(miscalibrated_by_at_most=0.1)
    labels = Evidence(whole_seconds=60, calibration={"win": moments(4000, off, 0.5)}, **labelled(4000, 0.0))
    verdict = judge(plan, labels, "watch", SLOW)
    assert finding(verdict, "calibration win").verdict == word
    assert verdict.verdict == word


def test_without_pairs_the_two_arms_are_compared():
    def apart(worse):
        return seen(
            paired=None,
            plain=None,
            losses={"challenger": moments(4000, 2 * (1 + worse), 0.5), "champion": moments(36_000, 2.0, 0.5)},
        )

    for worse, word in ((0.0, "PROMOTE"), (0.1, "ROLLBACK"), (0.05, "HOLD")):
        found = finding(judge(PLAN, apart(worse), "canary", SLOW), "loss")
        assert (found.verdict, found.n, found.counted) == (word, 4000, "labelled answers")
        assert found.value == pytest.approx(worse)
    assert judge(PLAN, apart(-0.1), "canary", SLOW).better


def test_a_better_model_is_called_better_and_not_the_same():
    verdict = judge(PLAN, seen(worse=-0.1), "canary", BOTH)
    assert (verdict.verdict, verdict.better, verdict.same) == ("PROMOTE", True, False)


def test_a_loss_that_is_no_positive_number_is_judged_in_its_own_unit():
    given_evidence = seen(losses={"challenger": moments(5000, -1.0, 1.0), "champion": moments(5000, -1.0, 1.0)})
    found = finding(judge(PLAN, given_evidence, "canary", BOTH), "loss")
    assert (found.unit, found.limit, found.verdict) == ("", 0.0, "PROMOTE")


def test_before_any_label_the_loss_shows_what_is_allowed_of_it():
    found = finding(judge(PLAN, seen(labels=0), "canary", BOTH), "loss")
    assert (found.unit, found.limit, found.value, found.n) == (
        "relative", PLAN.loss_worse_by_at_most, None, 0,
    )  # fmt: skip


# --- alpha ------------------------------------------------------------------------------------------------


def test_alpha_is_split_over_all_metrics_and_over_the_stages_of_those_counted_anew(monkeypatch):
    asked = []
    plan = RolloutPlan(
        alpha=0.06,
        stages=(Stage(weight=5), Stage(weight=50)),
        latency_worse_by_at_most={"p50": 0.5, "p95": 0.5},
        disagreement_at_most={"y": 1.0},
        miscalibrated_by_at_most=0.1,
    )
    for name in ("difference", "quantile_ratio", "mean"):
        real = getattr(sequences, name)
        place = 3 if name == "quantile_ratio" else 2 if name == "difference" else 1
        monkeypatch.setattr(sequences, name, lambda *a, real=real, place=place: asked.append(a[place]) or real(*a))
    pairs = {"disagreement": {"y": moments(400, 0.5, 1.0)}, "calibration": {"win": moments(400, 0.0, 0.5)}}
    held = {"errors": (100, 10_000), "plain": None, **pairs}
    assert judge(plan, seen(**held), "canary", NONE).verdict == "PROMOTE"
    part = 0.06 / len(("errors", "p50", "p95", "disagreement", "loss", "calibration"))
    of_each_stage, one_sided, two_sided = (part / 2, 0.06), (part, 0.06), (part / 2, part / 2)
    assert asked == [of_each_stage] * 3 + [one_sided] * 2 + [two_sided]


# --- how much longer --------------------------------------------------------------------------------------


def spread(each, factor):
    """The same shares of so many times as many, as nearly as whole requests can."""
    until, bins = 0, {}
    for place in sorted(each.bins):
        until += each.bins[place]
        bins[place] = round(until * factor) - sum(bins.values())
    return Latencies(bins=bins)


def grown(given_evidence, factor):
    """So many times as much of the same."""

    def bigger(each):
        return Moments(n=round(each.n * factor), total=each.total * factor, squares=each.squares * factor)

    return given_evidence.model_copy(update={
        "rates": {
            arm: Rates(requests=math.ceil(each.requests * factor), errors=round(each.errors * factor))
            for arm, each in given_evidence.rates.items()
        },
        "latencies": {
            arm: spread(each, factor) for arm, each in given_evidence.latencies.items()
        },
        "losses": {arm: bigger(each) for arm, each in given_evidence.losses.items()},
        "paired": bigger(given_evidence.paired),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "given_evidence"),
    [
        ("errors", seen(errors=(4, 400), rates=rates((4, 400), (36, 3600)))),
        ("errors", seen(rates=rates((75, 2500), (225, 22_500)))),
        ("latency p95", seen(n=150)),
        ("latency p95", seen(n=150, slower=1.8)),
        ("loss", seen(labels=150, **labelled(150, 0.03, noise=1.0))),
        ("loss", seen(labels=150, **labelled(150, 0.08, noise=1.0))),
    ],
)
def test_after_as_much_more_as_it_needs_the_verdict_is_there_and_not_long_before(metric, given_evidence):
    held = finding(judge(PLAN, given_evidence, "canary", NONE), metric)
    assert held.verdict == "HOLD"
    enough = 1 + held.needs / held.n
    assert finding(judge(PLAN, grown(given_evidence, 1.02 * enough), "canary", NONE), metric).verdict != "HOLD"
    early = max(1.0, 0.8 * enough)
    assert finding(judge(PLAN, grown(given_evidence, early), "canary", NONE), metric).verdict == "HOLD"


def test_what_lies_on_the_limit_has_no_estimate():
    verdict = judge(PLAN, seen(worse=PLAN.loss_worse_by_at_most), "canary", SLOW)
    found = finding(verdict, "loss")
    assert (found.verdict, found.needs, found.seconds) == ("HOLD", None, None)
    assert verdict.why.startswith("loss lies so near to what is allowed")


def test_at_three_requests_an_hour_it_holds_and_says_for_how_long():
    slow = Evidence(
        seconds=20 * 3600,
        whole_seconds=20 * 3600,
        rates=rates((0, 60), (0, 540)),
        latencies={"challenger": latencies(60), "champion": latencies(540)},
        disagreement={"y": moments(60, 0.1, 0.1)},
    )
    verdict = judge(PLAN, slow, "canary", FAST)
    assert verdict.verdict == "HOLD"
    assert finding(verdict, "errors").needs >= 440
    assert finding(verdict, "errors").seconds >= 440 * 1200
    assert "days at the present rate" in verdict.why


# --- whatever the numbers ---------------------------------------------------------------------------------

counts = some.integers(0, 10**6)
sums = some.builds(
    lambda n, mean, sd: moments(n, mean, sd), some.integers(0, 10**5), some.floats(-1e3, 1e3), some.floats(0, 1e3)
)
arms = some.builds(lambda n, share: Rates(requests=n, errors=int(n * share)), counts, some.floats(0, 1))
histograms = some.builds(
    lambda bins: Latencies(bins=bins),
    some.dictionaries(some.integers(-200, 900), some.integers(0, 10**5), max_size=5),
)
anything = some.builds(
    Evidence,
    seconds=some.floats(0, 1e7),
    whole_seconds=some.floats(0, 1e7),
    rates=some.fixed_dictionaries({"challenger": arms, "champion": arms}),
    latencies=some.fixed_dictionaries({"challenger": histograms, "champion": histograms}),
    disagreement=some.fixed_dictionaries({"y": sums}),
    shift=some.fixed_dictionaries({"y": sums}),
    paired=some.none() | sums,
    plain=some.none() | sums,
    losses=some.fixed_dictionaries({}, optional={"challenger": sums, "champion": sums}),
    calibration=some.fixed_dictionaries({"y": sums}),
)
WHOLE = RolloutPlan(
    shadow=Shadow(labels=10),
    disagreement_at_most={"y": 1.0},
    shift_at_most={"y": 0.5},
    miscalibrated_by_at_most=0.1,
)
leasts = some.builds(Least, fast=some.integers(0, 10**6), slow=some.integers(0, 10**6))


@settings(max_examples=60)
@given(anything, some.sampled_from(["shadow", "canary", "watch"]), leasts)
def test_any_numbers_get_one_verdict_that_is_finite_told_and_kept(evidence, kind, least):
    verdict = judge(WHOLE, evidence, kind, least)
    words = {each.verdict for each in verdict.findings}
    assert verdict.why
    assert (verdict.verdict == "ROLLBACK") == ("ROLLBACK" in words)
    for each in verdict.findings:
        ends = (
            each.lower if each.lower is not None else -math.inf,
            each.upper if each.upper is not None else math.inf,
        )
        assert ends[0] <= ends[1]
        assert (each.needs is None and each.seconds is None) or each.verdict == "HOLD"
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert judge(WHOLE, evidence, kind, least) == verdict


# --- the benchmark is about this judge --------------------------------------------------------------------


def until(marks, ours, last, kind):
    """What the judge is given after so many requests."""
    arms = {"challenger": ours[:last], "champion": ~ours[:last]}
    if kind == "errors":
        counted = {
            arm: Rates(requests=int(side.sum()), errors=int(marks[:last][side].sum()))
            for arm, side in arms.items()
        }
        return Evidence(seconds=1, rates=counted)
    held = {arm: np.unique(marks[:last][side], return_counts=True) for arm, side in arms.items()}
    return Evidence(
        seconds=1,
        latencies={
            arm: Latencies(bins=dict(zip(*map(np.ndarray.tolist, each), strict=True)))
            for arm, each in held.items()
        },
    )


@pytest.mark.parametrize(
    ("metric", "asked", "marks", "word"),
    [
        ("errors", simulated.errors("challenger", 0.2), simulated.failing(0.2), "ROLLBACK"),
        ("errors", simulated.errors("champion", 0.001), simulated.failing(0.001), "PROMOTE"),
        ("latency p95", simulated.latency("challenger", 0.95, 2.0), simulated.lasting(2.0), "ROLLBACK"),
        ("latency p50", simulated.latency("champion", 0.5, 0.7), simulated.lasting(0.7), "PROMOTE"),
    ],
)
def test_the_benchmark_decides_at_the_request_at_which_the_judge_does(metric, asked, marks, word):
    runs, requests = 10, 6000
    moments = simulated.moments([asked], marks, requests, 3, runs)
    random = np.random.default_rng(3)
    ours = random.random((runs, requests), np.float32) < simulated.SHARE
    shown = marks(random, ours)
    assert np.isfinite(moments).all()
    for run, moment in enumerate(moments.astype(int)):
        words = [
            finding(
                judge(simulated.PLAN, until(shown[run], ours[run], last, metric), "canary", NONE), metric
            ).verdict
            for last in (moment - 1, moment)
        ]
        assert words == ["HOLD", word]
