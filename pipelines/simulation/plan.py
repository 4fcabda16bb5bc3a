"""What is sent when: pure, and the same for the same seed."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as field_of

from pipelines.errors import BadSettings
from pipelines.rows import requests_of
from pipelines.spec import Columns, Field, Frozen, UseCase

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d)")
_SHIFT = re.compile(r"(?P<name>.+?)=(?P<how>[+\-*])(?P<by>\d+(?:\.\d+)?)(?P<unit>sd)?")


class Phase(Frozen):
    """The rate is multiplied for a length in every period: `10x:30s/5m` a burst, factor 0 idle."""

    factor: float
    length: float
    period: float


class Delay(Frozen):
    """How long after its answer a label comes; seconds."""

    kind: Literal["fixed", "exponential"] = "fixed"
    mean: float = 0.0


class Shift(Frozen):
    """Drift on demand: a column plus a number, plus so many standard deviations of its own, or times a number."""

    column: str
    how: Literal["+", "*"]
    by: float
    in_deviations: bool = False


class Plan(Frozen):
    """Everything that decides what is sent."""

    seed: int = 0
    rate: float = field_of(default=10.0, gt=0, le=100_000)
    """Requests a second."""
    batch: int = field_of(default=1, ge=1)
    """Rows a request."""
    rows: int | None = field_of(default=None, ge=1)
    duration: float | None = None
    """Seconds; the first of rows and duration ends it."""
    burst: Phase | None = None
    idle: Phase | None = None
    label_delay: Delay = Delay()
    label_loss: float = field_of(default=0.0, ge=0, le=1)
    labels_by: Literal["id", "key", "none"] = "id"
    shifts: tuple[Shift, ...] = ()
    shift_after: float = 0.0
    """Seconds after which the shifts begin."""


class Rows(NamedTuple):
    """What may be sent, (n,) each."""

    columns: Columns
    keys: list[str | int]
    event_times: list[str | None]
    actual: NDArray[np.float64]


class Told(NamedTuple):
    """The label of one row: what happened, and how long after the answer it is told; None: never."""

    actual: float
    after: float | None


class Request(NamedTuple):
    """One request, when it is meant to be sent, in seconds from the start."""

    at: float
    rows: list[dict[str, Any]]
    labels: list[Told]


def length(text: str) -> float:
    """`250ms`, `30s`, `5m`, `2h`, `1d`, in seconds."""
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise BadSettings(f"{text!r} is no length of time: write 30s, 5m, 2h or 1d")
    return float(found[1]) * UNITS[found[2]]


def burst(text: str) -> Phase:
    """`10x:30s/5m`: every five minutes begin with thirty seconds at ten times the rate."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)x:(\w+)/(\w+)", text)
    if found is None:
        raise BadSettings(f"{text!r} is no burst: write 10x:30s/5m (ten times the rate, 30 s in every 5 min)")
    return _phase(text, float(found[1]), found[2], found[3])


def idle(text: str) -> Phase:
    """`30s/5m`: every five minutes end with thirty seconds without a request."""
    first, slash, second = text.partition("/")
    if not slash:
        raise BadSettings(f"{text!r} is no idle time: write 30s/5m (30 s in every 5 min)")
    return _phase(text, 0.0, first, second)


def _phase(text: str, factor: float, part: str, period: str) -> Phase:
    phase = Phase(factor=factor, length=length(part), period=length(period))
    if not 0 < phase.length < phase.period:
        raise BadSettings(f"{text!r}: the first time must be shorter than the second")
    return phase


def delay(text: str) -> Delay:
    """`2m`: always; `exp:2m`: exponentially distributed with that mean."""
    kind, colon, mean = text.rpartition(":")
    if colon and kind not in {"exp", "fixed"}:
        raise BadSettings(f"{text!r} is no delay: write 2m, fixed:2m or exp:2m")
    return Delay(kind="exponential" if kind == "exp" else "fixed", mean=length(mean))


def shift(text: str, use_case: UseCase) -> Shift:
    """`heart_rate=+0.5sd`, `=-3`, `=*1.2`; the column's case does not matter."""
    found = _SHIFT.fullmatch(text)
    if found is None:
        raise BadSettings(f"{text!r} is no shift: write column=+0.5sd, column=-3 or column=*1.2")
    numbers = {field.name.lower(): field.name for field in use_case.inputs if field.type != "text"}
    column = numbers.get(found["name"].lower())
    if column is None:
        raise BadSettings(f"{text!r}: {use_case.name} has no number of that name, but {sorted(numbers.values())}")
    if found["how"] == "*" and found["unit"]:
        raise BadSettings(f"{text!r}: standard deviations are added, not multiplied")
    by = -float(found["by"]) if found["how"] == "-" else float(found["by"])
    return Shift(
        column=column, how="*" if found["how"] == "*" else "+", by=by, in_deviations=found["unit"] is not None
    )


def shifted(use_case: UseCase, shifts: tuple[Shift, ...], columns: Columns) -> Columns:
    """The columns after the shifts; whole numbers stay whole, and nothing leaves what its field allows."""
    fields = {field.name: field for field in use_case.inputs}
    moved = dict(columns)
    for each in shifts:
        values = np.asarray(moved[each.column], np.float64)
        step = (
            each.by * float(np.nanstd(np.asarray(columns[each.column], np.float64)))
            if each.in_deviations
            else each.by
        )
        moved[each.column] = _allowed(fields[each.column], values * step if each.how == "*" else values + step)
    return moved


def _allowed(field: Field, values: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.round(values) if field.type == "integer" else values
    return (
        np.clip(values, field.minimum, field.maximum) if (field.minimum, field.maximum) != (None, None) else values
    )


def times(plan: Plan) -> Iterator[float]:
    """When each request is meant to be sent, whatever became of those before it (an open loop)."""
    at = 0.0
    while plan.duration is None or at < plan.duration:
        resting = _rest(plan.idle, at)
        if resting > 0:
            at += resting
            continue
        yield at
        at += 1 / (plan.rate * _factor(plan.burst, at))


def _rest(idle: Phase | None, at: float) -> float:
    """How long it is still idle; an idle time ends its period."""
    if idle is None:
        return 0.0
    left = idle.period - at % idle.period
    return left if left <= idle.length else 0.0


def _factor(burst: Phase | None, at: float) -> float:
    return burst.factor if burst is not None and at % burst.period < burst.length else 1.0


def requests(use_case: UseCase, plan: Plan, rows: Rows) -> Iterator[Request]:
    """The whole stream; when the rows are used up they come again in another order."""
    order, chance = _order(plan, len(rows.actual)), np.random.default_rng([plan.seed, 2])
    moved = shifted(use_case, plan.shifts, rows.columns)
    left = plan.rows
    for at in times(plan):
        size = plan.batch if left is None else min(plan.batch, left)
        if size == 0:
            return
        left = None if left is None else left - size
        some = [next(order) for _ in range(size)]
        columns = moved if at >= plan.shift_after else rows.columns
        labels = [Told(float(rows.actual[row]), _after(plan, chance)) for row in some]
        yield Request(at, _bodies(use_case, rows, columns, some), labels)


def _order(plan: Plan, n: int) -> Iterator[int]:
    for again in count():
        yield from np.random.default_rng([plan.seed, 1, again]).permutation(n).tolist()


def _after(plan: Plan, chance: np.random.Generator) -> float | None:
    """Both draws are made for every row, so that a change of one leaves the other as it was."""
    lost, long = chance.random() < plan.label_loss, chance.exponential()
    if lost or plan.labels_by == "none":
        return None
    return plan.label_delay.mean * (long if plan.label_delay.kind == "exponential" else 1.0)


def _bodies(use_case: UseCase, rows: Rows, columns: Columns, some: list[int]) -> list[dict[str, Any]]:
    bodies = requests_of(use_case, {name: values[some] for name, values in columns.items()})
    for body, row in zip(bodies, some, strict=True):
        body[use_case.entity] = rows.keys[row]
        if rows.event_times[row] is not None:
            body["event_time"] = rows.event_times[row]
    return bodies
