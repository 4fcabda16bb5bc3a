"""What is measured beside a reference in the same run; ratios, because machines differ.

A leg is a module with `run()`: it takes both sides in turns (A B A B) and gives Results, made by `compared`. A leg
whose cost must stay flat gives a Curve beside them: what the same work cost at growing sizes.
"""

import operator
import re
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

Cost = TypeVar("Cost")
_AIM = re.compile(r"(<=|>=|<|>) ([\d.]+)")
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class Result(NamedTuple):
    """One leg beside its reference; `ratio` is the median of the turns' ratios."""

    leg: str
    unit: str
    reference: str
    """What stands beside it."""
    value: float
    against: float
    """The reference's figure, in the same unit."""
    ratio: float
    aim: str
    holds: bool | None
    """None where the leg is stated and no aim is declared."""
    n: int
    """How many rows, requests or runs stand behind the figure."""


class Curve(NamedTuple):
    """What the same work cost at each size, for the chart."""

    leg: str
    unit: str
    size: str
    """What grows, on the x axis."""
    points: tuple[tuple[float, float], ...]
    """(size, cost)."""


class Report(NamedTuple):
    """What a leg's module measured."""

    results: Sequence[Result]
    curves: Sequence[Curve] = ()


def compared(
    leg: str, unit: str, reference: str, pairs: Sequence[tuple[float, float]], aim: str, n: int
) -> Result:
    """From (reference, ours) of each turn; `aim` is of the ratio, as `<= 3`, or empty where none is declared."""
    against, value = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(ours / other for other, ours in pairs)
    return Result(leg, unit, reference, value, against, ratio, aim, holds(aim, ratio), n)


def holds(aim: str, ratio: float) -> bool | None:
    """Whether a ratio reaches its aim."""
    found = _AIM.fullmatch(aim)
    if found is None:
        return None
    return bool(_COMPARE[found[1]](ratio, float(found[2])))


def in_turns(reference: Callable[[], Cost], ours: Callable[[], Cost], turns: int) -> list[tuple[Cost, Cost]]:
    """A B A B: both sides meet the same moods of the machine."""
    return [(reference(), ours()) for _ in range(turns)]
