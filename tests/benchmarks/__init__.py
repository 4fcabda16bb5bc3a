"""What is measured beside a reference in the same run; ratios, because machines differ."""

from typing import NamedTuple


class Result(NamedTuple):
    """One leg beside its reference."""

    leg: str
    value: float
    reference: float
    ratio: float
    aim: str
    holds: bool
    n: int
