"""Confidence sequences: their closed forms, how they shrink, and that they hold at all times at once."""

import math

import numpy as np
import pytest
from scipy.special import betaln

from pipelines.rollout import sequences
from pipelines.rollout.evidence import Latencies, Moments, Rates
from pipelines.rollout.sequences import Counts, Levels, Sample, Seen
from tests.unit import one_arm

ALPHA = 0.1
LEVELS = Levels(0.05, 0.05)


def arm(errors, n, strength=100.0):
    return Counts(np.asarray(errors, float), np.asarray(n, float), strength)


def histogram(milliseconds):
    places, found = np.unique(sequences.bin_of(milliseconds), return_counts=True)
    return Latencies(bins=dict(zip(places.tolist(), found.tolist(), strict=True)))


def said(successes, n, rate):
    """The evidence against a rate, written out."""
    drawn = betaln(0.5 + successes, 0.5 + n - successes) - betaln(0.5, 0.5)
    return drawn - successes * math.log(rate) - (n - successes) * math.log1p(-rate)


@pytest.mark.parametrize(
    ("successes", "n"), [(3, 100), (1, 1000), (999, 1000), (50_000, 10**7), (2 * 10**7, 10**9)]
)
def test_the_ends_of_a_rate_lie_where_the_evidence_reaches_its_level(successes, n):
    lower, upper = one_arm.bernoulli(successes, n, 0.05)
    assert lower < successes / n < upper
    for end in (float(lower), float(upper)):
        assert said(successes, n, end) == pytest.approx(math.log(20), abs=1e-4)


@pytest.mark.parametrize("n", [1, 7, 1000, 10**9])
def test_without_a_success_or_a_failure_one_end_is_the_last_possible_and_the_other_has_a_closed_form(n):
    lower, upper = one_arm.bernoulli(0, n, 0.05)
    drawn = betaln(0.5, 0.5 + n) - betaln(0.5, 0.5)
    assert lower == 0
    assert upper == pytest.approx(-math.expm1((drawn + math.log(0.05)) / n), rel=1e-6)
    mirrored = one_arm.bernoulli(n, n, 0.05)
    assert mirrored[0] == pytest.approx(1 - upper)
    assert mirrored[1] == 1


def test_nothing_seen_says_nothing():
    assert one_arm.bernoulli(0, 0, 0.05) == (0, 1)
    lower, upper = sequences.difference(arm([0], [0]), arm([0], [0]), LEVELS)
    assert (lower, upper) == (pytest.approx(-1, abs=1e-8), pytest.approx(1, abs=1e-8))


def test_sequences_shrink_as_more_of_the_same_comes():
    grow = np.geomspace(1, 1e6, 30)
    rates = one_arm.bernoulli(3 * grow, 100 * grow, 0.05)
    two = sequences.difference(arm(3 * grow, 100 * grow), arm(9 * grow, 900 * grow), LEVELS)
    numbers = sequences.mean(sequences.sample(Moments(n=100, total=50.0, squares=80.0), grow), LEVELS, 300)
    for lower, upper in (rates, two, numbers):
        assert (np.diff(lower) > -1e-8).all()
        assert (np.diff(upper) < 1e-8).all()


def test_outside_the_difference_of_two_rates_evidence_speaks_against_every_pair():
    challenger, champion = arm([40.0], [1000.0]), arm([180.0], [9000.0])
    lower, upper = sequences.difference(challenger, champion, LEVELS)
    assert lower < 0.02 < upper
    rates = np.linspace(1e-6, 0.9, 20_000)
    assert sequences.apart(challenger, champion, lower, rates).min() == pytest.approx(math.log(20), abs=2e-3)
    assert sequences.apart(champion, challenger, -upper, rates + upper).min() == pytest.approx(
        math.log(20), abs=2e-3
    )


@pytest.mark.parametrize("by", [0.0, 0.005, 0.05])
def test_the_ends_of_a_difference_and_the_evidence_at_a_limit_decide_alike(by):
    random = np.random.default_rng(8)
    n = random.integers(20, 5000, 300).astype(float)
    challenger, champion = (
        arm(random.binomial(n.astype(int), 0.05), n),
        arm(random.binomial(9 * n.astype(int), 0.02), 9 * n, 300.0),
    )
    lower, upper = sequences.difference(challenger, champion, LEVELS)
    rates = np.linspace(1e-6, 0.3, 1500)[:, None]
    sure = sequences.apart(challenger, champion, by, rates).min(axis=0) - math.log(20)
    near = np.abs(sure) < 0.02
    assert ((lower > by) == (sure > 0))[~near].all()
    sure = sequences.apart(champion, challenger, -by, rates).min(axis=0) - math.log(20)
    near = np.abs(sure) < 0.02
    assert ((upper < by) == (sure > 0))[~near].all()


def test_two_rates_together_are_sharper_than_one_beside_the_other():
    challenger, champion = (400.0, 10_000.0), (1800.0, 90_000.0)
    lower, upper = sequences.difference(arm([400], [10_000]), arm([1800], [90_000]), LEVELS)
    (ours_low, ours_high), (theirs_low, theirs_high) = (
        one_arm.bernoulli(*each, 0.05) for each in (challenger, champion)
    )
    assert upper - lower < 0.8 * ((ours_high - theirs_low) - (ours_low - theirs_high))


def test_the_radius_is_the_published_one():
    scale = (-2 * math.log(0.1) + math.log(-2 * math.log(0.1) + 1)) / 300
    inside = 500 * scale + 1
    expected = math.sqrt(4 * 2 * inside / (500**2 * scale) * math.log(1 + math.sqrt(inside) / 0.1))
    assert sequences.radius(500.0, 4.0, 0.05, 300) == pytest.approx(expected)


def test_moments_become_the_mean_and_the_unbiased_variance():
    numbers = np.random.default_rng(1).normal(3, 2, 50)
    moments = Moments(n=50, total=numbers.sum(), squares=(numbers**2).sum())
    found = sequences.sample(moments)
    assert (found.n, found.mean, found.variance) == (
        50,
        pytest.approx(numbers.mean()),
        pytest.approx(numbers.var(ddof=1)),
    )
    assert sequences.counts(Rates(requests=10, errors=2), "champion", 3.0)[:2] == (6, 30)
    assert sequences.counts(Rates(requests=10, errors=12), "champion")[:2] == (10, 10)


def test_two_arms_of_which_one_is_known_exactly_are_one_sequence():
    one = Sample(np.array([400.0]), np.array([1.0]), np.array([2.0]))
    known = Sample(np.array([1e15]), np.array([0.5]), np.array([1.0]))
    assert np.allclose(
        sequences.means(one, known, 1.0, LEVELS, 300), np.array(sequences.mean(one, LEVELS, 300)) - 0.5
    )


def test_a_latency_lies_between_the_edges_of_its_bin():
    milliseconds = np.random.default_rng(2).lognormal(1, 2, 1000)
    places = sequences.bin_of(milliseconds)
    assert (sequences.edge(places) <= milliseconds * (1 + 1e-12)).all()
    assert (milliseconds < sequences.edge(places + 1) * (1 + 1e-12)).all()
    assert np.isfinite(sequences.bin_of(np.array([0.0, 1e9]))).all()


def test_a_quantile_lies_within_its_ends_and_they_close_to_a_bin():
    milliseconds = np.random.default_rng(3).lognormal(1, 0.5, 20_000)
    wide = one_arm.quantile(histogram(milliseconds[:500]), 0.95, 0.05)
    narrow = one_arm.quantile(histogram(milliseconds), 0.95, 0.05)
    true = math.exp(1 + 0.5 * 1.6448536)
    assert wide[0] <= narrow[0] <= true <= narrow[1] <= wide[1]
    same = one_arm.quantile(Latencies(bins={7: 10_000}), 0.5, 0.05)
    assert same == (pytest.approx(sequences.RATIO**7), pytest.approx(sequences.RATIO**8))
    assert one_arm.quantile(Latencies(bins={7: 2}), 0.5, 0.05) == (0, np.inf)


def test_evidence_for_a_rate_above_grows_with_the_successes_and_never_says_less_than_nothing_bet():
    for n in (1, 50, 10_000, 10**7):
        successes = np.unique(np.linspace(0, n, 200).astype(int)).astype(float)
        found = sequences.above(successes, float(n), 0.95, 100.0)
        assert np.isfinite(found).all()
        assert (np.diff(found) >= -1e-9).all()
        assert found.min() >= math.log(sequences.UNMOVED) - 1e-12


@pytest.mark.parametrize("n", [0, 1, 30, 10_000, 10**8])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_evidence_for_a_rate_above_falls_with_that_rate(n, share):
    rates = np.sort(np.concatenate((np.geomspace(1e-15, 0.5, 300), 1 - np.geomspace(1e-15, 0.5, 300), [0, 1])))
    for strength in sequences.STRENGTH.values():
        found = sequences.above(float(round(share * n)), float(n), rates, strength)
        assert np.isfinite(found).all()
        assert (np.diff(found) <= 1e-5 + 1e-9 * np.abs(found[1:])).all()


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("p", [0.5, 0.95])
def test_evidence_is_one_on_average_while_it_speaks_against_the_truth(n, p):
    successes = np.arange(n + 1)
    chance = np.array([math.comb(n, k) for k in successes]) * p**successes * (1 - p) ** (n - successes)
    assert chance @ np.exp(sequences.above(successes.astype(float), float(n), p, 100.0)) == pytest.approx(1)
    assert chance @ np.exp(sequences.below(successes.astype(float), float(n), p, 100.0)) == pytest.approx(1)
    drawn = one_arm.mixture(successes.astype(float), n) - sequences.likelihood(successes.astype(float), n, p)
    assert chance @ np.exp(drawn) == pytest.approx(1)


def test_latencies_that_share_no_bin_are_told_apart():
    fast, slow = np.full(500, 2.0), np.full(500, 2000.0)
    ours, theirs = Seen.of(histogram(slow)), Seen.of(histogram(fast))
    lower, upper = sequences.quantile_ratio(ours, theirs, 0.5, LEVELS)
    assert 980 < float(lower) <= 1000 <= float(upper) < 1030
    lower, upper = sequences.quantile_ratio(theirs, ours, 0.5, LEVELS)
    assert 0.00098 < float(lower) <= 0.001 <= float(upper) < 0.00103


def test_a_few_latencies_bound_nothing():
    few = Seen.of(Latencies(bins={3: 2, 9: 1}))
    assert sequences.quantile_ratio(few, few, 0.95, LEVELS) == (0, np.inf)


# --- coverage: each end may fail in LEVELS of runs, looked at after every number ---------------------------

RUNS, LENGTH = 400, 1500
WITHIN = 3.0
"""Standard errors that a share of runs may lie above its level by chance."""


def allowed(level):
    return level + WITHIN * math.sqrt(level * (1 - level) / RUNS)


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.5])
def test_a_rate_is_covered_at_all_times_at_once(rate):
    random = np.random.default_rng(11)
    successes = np.cumsum(random.random((RUNS, LENGTH)) < rate, axis=1, dtype=float)
    n = np.arange(1.0, LENGTH + 1)
    wrong = one_arm.mixture(successes, n) - sequences.likelihood(successes, n, rate) >= -math.log(ALPHA)
    assert wrong.any(axis=1).mean() <= allowed(ALPHA)
    lower, upper = one_arm.bernoulli(successes[:20], n, ALPHA)
    missed = (lower > rate) | (upper < rate)
    assert (missed == wrong[:20]).mean() > 0.9999


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_difference_of_rates_is_covered_at_all_times_at_once(share):
    random = np.random.default_rng(12)
    ours = random.random((RUNS, LENGTH)) < share
    failed = random.random((RUNS, LENGTH)) < np.where(ours, 0.05, 0.03)
    every = slice(14, None, 15)
    challenger = arm(np.cumsum(failed & ours, axis=1)[:, every], np.cumsum(ours, axis=1)[:, every])
    champion = arm(np.cumsum(failed & ~ours, axis=1)[:, every], np.cumsum(~ours, axis=1)[:, every], 300.0)
    for one, other, by, rate in ((challenger, champion, 0.02, 0.03), (champion, challenger, -0.02, 0.05)):
        suspect = (sequences.apart(one, other, by, rate) >= math.log(20)).any(axis=1)
        assert suspect.mean() <= allowed(0.05)
        few = (Counts(*(each[suspect] for each in pair[:2]), pair.strength) for pair in (challenger, champion))
        lower, upper = sequences.difference(*few, LEVELS)
        assert ((lower > 0.02) | (upper < 0.02)).any(axis=1).sum() <= suspect.sum()


def test_the_mean_of_heavy_tailed_numbers_is_covered_from_the_floor_on():
    random = np.random.default_rng(13)
    numbers = random.standard_t(5, (RUNS, LENGTH)) ** 2 - 5 / 3
    n = np.arange(1.0, LENGTH + 1)[100:]
    total, squares = (np.cumsum(each, axis=1)[:, 100:] for each in (numbers, numbers**2))
    spread = (squares / n - (total / n) ** 2) * n / (n - 1)
    lower, _ = sequences.mean(Sample(n, total / n, spread), LEVELS, 300)
    assert (lower > 0).any(axis=1).mean() <= allowed(0.05)


def test_the_difference_of_two_means_is_covered_along_a_ramp():
    random = np.random.default_rng(15)
    ours = random.random((RUNS, LENGTH)) < np.repeat([0.1, 0.3, 0.5], LENGTH // 3)
    numbers = random.exponential(np.where(ours, 2.1, 2.0))
    looks = slice(LENGTH // 2, None, 3)
    arms = []
    for side in (ours, ~ours):
        n, total, squares = (np.cumsum(side * numbers**power, axis=1)[:, looks] for power in (0, 1, 2))
        arms.append(Sample(n, total / n, (squares / n - (total / n) ** 2) * n / (n - 1)))
    lower, upper = sequences.means(*arms, 1.05, LEVELS, 300)
    assert (lower > 0).any(axis=1).mean() <= allowed(0.05)
    assert (upper < 0).any(axis=1).mean() <= allowed(0.05)


def test_the_ratio_of_quantiles_is_covered_along_a_ramp():
    random = np.random.default_rng(14)
    wrong = 0
    runs, length = 60, 1200
    for _ in range(runs):
        ours, theirs = random.lognormal(1, 0.5, length) * 1.5, random.lognormal(1, 0.5, 5 * length)
        for k in range(100, length, 100):
            split = Seen.of(histogram(ours[:k])), Seen.of(histogram(theirs[: max(5 * k - 5 * k * k // length, k)]))
            lower, upper = sequences.quantile_ratio(*split, 0.95, LEVELS)
            wrong += bool(lower > 1.5 or upper < 1.5)
    assert wrong <= runs * ALPHA
