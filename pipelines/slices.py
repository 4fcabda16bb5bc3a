"""Slices: rows that are looked at apart, in training, at the gate and by the label clock, under the same names."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.spec import Columns, Slice, UseCase

ALL = "all"
MISSING = "missing"
WORD = 60
"""Longer words are cut: a name must stay a name."""


class _Coded(NamedTuple):
    """One column as numbers that stand for words."""

    codes: NDArray[np.intp]
    words: list[str]


def names(use_case: UseCase, columns: Columns, n: int | None = None) -> list[tuple[str, NDArray[np.bool_]]]:
    """`all`, then every declared slice that has rows, as (name, (n,) mask).

    Only the columns of `inputs` are needed; where these are none, `n` says how many rows there are.

    Names say the columns and their values, `Gender=male, Age=30..45`; a number's interval holds its lower end.
    """
    n = len(next(iter(columns.values()))) if n is None else n
    return [(ALL, np.ones(n, bool)), *(found for each in use_case.slices for found in _of(each, columns))]


def inputs(use_case: UseCase) -> tuple[str, ...]:
    """The inputs that decide in which slices a row is."""
    return tuple(dict.fromkeys(name for each in use_case.slices for name in each.by))


def _of(asked: Slice, columns: Columns) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each combination of values that has rows."""
    coded = [_coded(name, columns[name], asked.edges.get(name)) for name in asked.by]
    shape = tuple(len(each.words) for each in coded)
    if 0 in shape:
        return
    joint = np.ravel_multi_index([each.codes for each in coded], shape)
    for code in np.unique(joint):
        places = np.unravel_index(code, shape)
        words = (each.words[place] for each, place in zip(coded, places, strict=True))
        yield ", ".join(words), joint == code


def _coded(name: str, values: NDArray[Any], edges: tuple[float, ...] | None) -> _Coded:
    return _by_word(name, values) if edges is None else _by_edges(name, values, edges)


def _by_word(name: str, values: NDArray[Any]) -> _Coded:
    cells = [MISSING if value is None else str(value)[:WORD] for value in values.tolist()]
    words = sorted(set(cells))
    place = {word: code for code, word in enumerate(words)}
    return _Coded(
        np.fromiter((place[cell] for cell in cells), np.intp, len(cells)), [f"{name}={w}" for w in words]
    )


def _by_edges(name: str, values: NDArray[Any], edges: tuple[float, ...]) -> _Coded:
    numbers = np.asarray(values, np.float64)
    codes = np.searchsorted(np.asarray(edges), numbers, side="right")
    codes[np.isnan(numbers)] = len(edges) + 1
    borders = ["", *(f"{edge:g}" for edge in edges), ""]
    words = [f"{lower}..{upper}" for lower, upper in pairwise(borders)]
    return _Coded(codes, [f"{name}={word}" for word in (*words, MISSING)])
