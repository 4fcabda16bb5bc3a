"""Columns of text are typed as their cells are, whichever way is taken."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from polars.testing import assert_series_equal

from pipelines import cells
from pipelines.adapters import csv_file
from pipelines.spec import Field, Files, Table

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


TABLE = Table(
    name="rows",
    source=Files(pattern="*"),
    key=("id",),
    columns=(
        Field(name="id", type="text", example="a"),
        Field(name="whole", type="integer", example=1),
        Field(name="float", type="number", example=1.5),
    ),
)
WRITTEN = some.one_of(
    some.sampled_from([cell for cell in (*PLAIN, *ODD) if cell is not None]),
    some.integers(-(2**64), 2**64).map(str),
    some.floats().map(repr),
    some.text("0123456789+-.eExXinfaNIF_ \t", max_size=8),
)


@given(some.lists(some.tuples(WRITTEN, WRITTEN), min_size=1, max_size=6), some.booleans())
@example([("0x1F", "1")], False)
@example([("1", "1e999")], False)
@example([(" 1", "\t2 ")], True)
def test_numbers_that_the_reader_saw_are_those_that_their_text_says(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[str, str]], quoted: bool
) -> None:
    mark = '"' if quoted else ""
    lines = [f"{place},{mark}{whole}{mark},{mark}{number}{mark}" for place, (whole, number) in enumerate(written)]
    file = tmp_path_factory.mktemp("cells") / "rows.csv"
    Path(file).write_text("\n".join(["id,whole,float", *lines, ""]))
    read = csv_file.read(file, TABLE, None)
    assert len(read.rows) == len(written)
    for field in TABLE.columns:
        assert_series_equal(
            cells.values(read.rows, field), read.text().select(cells.value(field)).to_series(), check_exact=True
        )


def test_a_piece_whose_cells_are_all_numbers_is_read_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('id,whole,more,float\na,1,x,"2.50"\nb,,,\n')
    read = csv_file.read(file, TABLE, None)
    assert [str(kind) for kind in read.rows.dtypes] == ["String", "Int64", "Float64", "Int64"]
    assert read.rows.rows() == [("a", 1, 2.5, 1), ("b", None, None, 2)]
    assert read.text().rows() == [("a", "1", "x", "2.50", 1), ("b", None, None, None, 2)]
