"""From the log and the proxy's counters to the evidence of a rollout: pure, and everything adds up."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as field_of

from pipelines import rows, slices
from pipelines.predictions.arms import Answers, Losses
from pipelines.rollout.evidence import Arm, Evidence, Latencies, Moments, Rates
from pipelines.rollout.proxy import Counters
from pipelines.rollout.sequences import bin_of
from pipelines.rollout.serving import Serving
from pipelines.rollout.stages import Rollout
from pipelines.spec import Frozen, UseCase

Values = NDArray[np.float64]


class Apart(Frozen):
    """How far the answers of both lie apart in one slice, and how each is spread."""

    shift: Moments = Moments()
    """challenger - champion."""
    disagreement: Moments = Moments()
    challenger: Moments = Moments()
    champion: Moments = Moments()


class Counted(Frozen):
    """What the judge has counted so far: kept between its looks, so that it may die at any time."""

    seen: int = 0
    """Number of the last record that was counted."""
    replayed: int = 0
    """Number of the last record that was asked again, where it is in the declared share."""
    asked_again: int = 0
    unanswered: int = 0
    """Of these: the place did not answer."""
    raw: dict[str, tuple[int, int]] = field_of(default_factory=dict)
    """By the proxy's line: requests and errors, as its counters had them last; they begin anew with the proxy."""
    rates: dict[Arm, Rates] = field_of(default_factory=dict)
    latencies: dict[Arm, Latencies] = field_of(default_factory=dict)
    slices: dict[str, dict[str, Apart]] = field_of(default_factory=dict)
    """By slice and output; all of them together are judged, the others shown."""
    paired: Moments | None = None
    plain: Moments | None = None
    losses: dict[Arm, Moments] = field_of(default_factory=dict)
    calibration: dict[str, Moments] = field_of(default_factory=dict)


ARM_OF_ROLE: dict[str, Arm] = {"stable": "champion", "canary": "challenger"}


def with_rates(counted: Counted, serving: Serving, counters: Sequence[Counters]) -> Counted:
    """What the proxy's lines did since the last look. A retry hides a failure from the client, not from here.

    The first look at a stage only notes where the counters stand.
    """
    rates, raw = dict(counted.rates), dict(counted.raw)
    arms = {place.line: ARM_OF_ROLE[place.role] for place in serving.places if place.role in ARM_OF_ROLE}
    for each in counters:
        if each.use_case != serving.use_case or each.line not in arms:
            continue
        now = (each.requests, each.failed)
        if each.line in raw:
            arm = arms[each.line]
            rates[arm] = _grown(rates.get(arm, Rates()), raw[each.line], now)
        raw[each.line] = now
    return counted.model_copy(update={"rates": rates, "raw": raw})


def _grown(rates: Rates, before: tuple[int, int], now: tuple[int, int]) -> Rates:
    """Counters that fell began anew with the proxy; a connection that failed may be no request of its own."""
    began_anew = now[0] < before[0] or now[1] < before[1]
    requests, errors = now if began_anew else (now[0] - before[0], now[1] - before[1])
    return Rates(requests=rates.requests + max(requests, errors), errors=rates.errors + errors)


def with_latencies(counted: Counted, told: Iterable[tuple[str, float]]) -> Counted:
    """Milliseconds by role."""
    by_arm: dict[Arm, list[float]] = {"champion": [], "challenger": []}
    for role, milliseconds in told:
        by_arm[ARM_OF_ROLE[role]].append(milliseconds)
    latencies = {arm: _filled(counted.latencies.get(arm, Latencies()), by_arm[arm]) for arm in by_arm}
    return counted.model_copy(update={"latencies": latencies})


def _filled(latencies: Latencies, milliseconds: list[float]) -> Latencies:
    bins = dict(latencies.bins)
    places, counts = np.unique(bin_of(np.array(milliseconds, np.float64)), return_counts=True)
    for place, count in zip(places.tolist(), counts.tolist(), strict=True):
        bins[place] = bins.get(place, 0) + count
    return Latencies(bins=bins)


def with_answers(counted: Counted, use_case: UseCase, told: Iterable[Answers]) -> Counted:
    """Requests that both answered, by slice; an output that only one of them has is left out."""
    every = list(told)
    fields = {field.name: field for field in use_case.inputs}
    columns = {
        name: rows.column(fields[name], [each.inputs.get(name) for each in every])
        for name in slices.inputs(use_case)
    }
    found = {name: dict(outputs) for name, outputs in counted.slices.items()}
    for name, inside in slices.names(use_case, columns, len(every)):
        for output, (challenger, champion) in _both(
            each for each, is_in in zip(every, inside, strict=True) if is_in
        ):
            apart = found.setdefault(name, {})
            apart[output] = _apart(apart.get(output, Apart()), challenger, champion)
    return counted.model_copy(update={"slices": found})


def _both(every: Iterable[Answers]) -> Iterator[tuple[str, tuple[Values, Values]]]:
    pairs: dict[str, list[tuple[float, float]]] = {}
    for each in every:
        for name in each.challenger.keys() & each.champion.keys():
            pairs.setdefault(name, []).append((each.challenger[name], each.champion[name]))
    for name, values in pairs.items():
        challenger, champion = np.array(values, np.float64).T
        yield name, (challenger, champion)


def _apart(apart: Apart, challenger: Values, champion: Values) -> Apart:
    return Apart(
        shift=_added(apart.shift, challenger - champion),
        disagreement=_added(apart.disagreement, np.abs(challenger - champion)),
        challenger=_added(apart.challenger, challenger),
        champion=_added(apart.champion, champion),
    )


def _added(moments: Moments, values: Values) -> Moments:
    return Moments(
        n=moments.n + len(values),
        total=moments.total + float(values.sum()),
        squares=moments.squares + float(np.square(values).sum()),
    )


def with_paired(counted: Counted, losses: Losses, allowed: float) -> Counted:
    """Labelled pairs."""
    update = {
        "paired": _weighed(losses, 1 + allowed),
        "plain": _weighed(losses, 1.0),
        "losses": {
            "challenger": Moments(n=losses.n, total=losses.c, squares=losses.cc),
            "champion": Moments(n=losses.n, total=losses.s, squares=losses.ss),
        },
    }
    return counted.model_copy(update=update)


def _weighed(losses: Losses, factor: float) -> Moments:
    """Of c - factor x s, by the sums of c and s."""
    squares = losses.cc - 2 * factor * losses.cs + factor**2 * losses.ss
    return Moments(n=losses.n, total=losses.c - factor * losses.s, squares=max(squares, 0.0))


def with_split(counted: Counted, rollout: Rollout, sums: Mapping[str, tuple[int, float, float]]) -> Counted:
    """Losses of what each arm answered itself."""
    arms: dict[Arm, str] = {"challenger": rollout.version, "champion": rollout.against}
    losses = {arm: _moments(sums.get(version, (0, 0.0, 0.0))) for arm, version in arms.items()}
    return counted.model_copy(update={"losses": losses, "paired": None, "plain": None})


def with_calibration(counted: Counted, sums: Mapping[str, tuple[int, float, float]]) -> Counted:
    """Residuals of probabilities."""
    return counted.model_copy(update={"calibration": {name: _moments(each) for name, each in sums.items()}})


def _moments(sums: tuple[int, float, float]) -> Moments:
    n, total, squares = sums
    return Moments(n=n, total=total, squares=squares)


def in_next_stage(counted: Counted) -> Counted:
    """What is counted by stage begins anew; so do losses that are not paired: their arms met in that stage."""
    losses = {} if counted.paired is None else counted.losses
    return counted.model_copy(update={"rates": {}, "raw": {}, "latencies": {}, "losses": losses})


def evidence_of(rollout: Rollout, counted: Counted, now: datetime) -> Evidence:
    """All that was counted, as the judge takes it."""
    sums = counted.model_dump(include=set(Evidence.model_fields) & set(Counted.model_fields))
    whole = counted.slices.get(slices.ALL, {})
    return Evidence(
        seconds=(now - rollout.since).total_seconds(),
        whole_seconds=(now - rollout.began).total_seconds(),
        disagreement={output: each.disagreement for output, each in whole.items()},
        shift={output: each.shift for output, each in whole.items()},
        **sums,
    )
