"""Slices: the same names for one request's rows and for a hundred thousand."""

import numpy as np

from pipelines import slices
from pipelines.spec import Slice
from pipelines.use_cases.calories import USE_CASE

SLICED = USE_CASE.model_copy(
    update={"slices": (Slice(by=("Gender",)), Slice(by=("Gender", "Age"), edges={"Age": (30.0, 45.0)}))}
)
COLUMNS = {
    "Gender": np.array(["male", "female", "male", None], object),
    "Age": np.array([30.0, 44.9, 45.0, np.nan]),
}


def test_every_combination_that_has_rows_is_a_slice_and_a_border_belongs_above():
    told = {name: mask.nonzero()[0].tolist() for name, mask in slices.names(SLICED, COLUMNS)}
    assert told == {
        "all": [0, 1, 2, 3],
        "Gender=female": [1],
        "Gender=male": [0, 2],
        "Gender=missing": [3],
        "Gender=female, Age=30..45": [1],
        "Gender=male, Age=30..45": [0],
        "Gender=male, Age=45..": [2],
        "Gender=missing, Age=missing": [3],
    }


def test_one_row_is_in_the_slices_that_it_is_in_among_many():
    for row in range(4):
        one = {name: values[row : row + 1] for name, values in COLUMNS.items()}
        mine = {name for name, mask in slices.names(SLICED, one) if mask[0]}
        assert mine == {name for name, mask in slices.names(SLICED, COLUMNS) if mask[row]}


def test_no_rows_are_in_no_slice_but_all():
    none = {name: values[:0] for name, values in COLUMNS.items()}
    assert [name for name, _ in slices.names(SLICED, none)] == ["all"]


def test_only_declared_inputs_decide():
    assert slices.inputs(SLICED) == ("Gender", "Age")
    assert slices.inputs(USE_CASE.model_copy(update={"slices": ()})) == ()


def test_a_hundred_thousand_rows_fall_into_the_same_slices_as_four():
    many = {name: np.tile(values, 25_000) for name, values in COLUMNS.items()}
    few = {name: int(where.sum()) for name, where in slices.names(SLICED, COLUMNS)}
    assert {name: int(where.sum()) for name, where in slices.names(SLICED, many)} == {
        name: 25_000 * n for name, n in few.items()
    }
