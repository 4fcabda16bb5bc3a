"""Columns of text are typed as their cells are, whichever way is taken."""

import polars as pl
import pytest
from polars.testing import assert_series_equal

from pipelines import cells
from pipelines.spec import Field

PLAIN = ["29", "-0", "+180", "007", None, "9223372036854775807"]
ODD = [
    " 30 ",
    "29.0",
    "1e3",
    "x",
    "",
    "nan",
    "inf",
    "1e999",
    "1_0",
    "0x10",
    "9007199254740993",
    "180.",
    "\t7",
    ".5",
]


@pytest.mark.parametrize("kind", ["number", "integer", "text"])
@pytest.mark.parametrize("odd", [None, *ODD])
def test_a_column_is_typed_as_each_of_its_cells(kind: str, odd: str | None) -> None:
    field = Field(name="x", type=kind, example="a" if kind == "text" else 1)
    rows = pl.DataFrame({"x": [*PLAIN, odd]}, {"x": pl.String})
    assert_series_equal(cells.values(rows, field), rows.select(cells.value(field)).to_series())


@pytest.mark.parametrize("kind", ["number", "integer", "text"])
def test_a_column_without_a_cell_has_its_type(kind: str) -> None:
    field = Field(name="x", type=kind, example="a" if kind == "text" else 1)
    for rows in (pl.DataFrame({"x": []}, {"x": pl.String}), pl.DataFrame({"x": [None]}, {"x": pl.String})):
        assert_series_equal(cells.values(rows, field), rows.select(cells.value(field)).to_series())
