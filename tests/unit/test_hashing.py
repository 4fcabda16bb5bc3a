"""Rows have one hash when they hold the same values, another when not, and the same one for ever."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import hashing, lake
from pipelines.hashing import WORD, hashes, text
from pipelines.spec import Field
from tests.builders import NOW

FIELDS = (
    Field(name="a", type="integer", example=1),
    Field(name="b", type="text", example="x"),
    Field(name="c", type="number", example=1.5),
    Field(name="d", type="time", example="2024-07-01T12:00:00Z"),
)


def frame(*rows, fields=FIELDS):
    return pl.DataFrame(list(rows), {field.name: lake.dtype(field) for field in fields}, orient="row")


def of(*rows, fields=FIELDS):
    return [tuple(each) for each in hashes(frame(*rows, fields=fields), fields).tolist()]


def test_the_hash_of_a_row_never_changes():
    rows = frame((1, "Zoë", 1.5, NOW), (None, "x", 29.0, NOW), (0, "", None, None))
    assert text(hashes(rows, FIELDS)).to_list() == [
        "858041ee08a6730c49d5304581e15a8e",
        "24a289ae57032e75ac262120a8fdaabf",
        "120eb899c5b045c356937c313ca9dca8",
    ]


CELLS = st.tuples(
    st.none() | st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.sampled_from(["", "\x00", "0", "1", "\x1f"]) | st.text(max_size=40),
    st.none() | st.sampled_from([0.0, -0.0, 1.0, 5e-324]) | st.floats(allow_nan=False),
    st.none()
    | st.sampled_from([datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)])
    | st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(CELLS, min_size=1, max_size=20))
def test_rows_have_one_hash_exactly_when_they_hold_the_same_values(rows):
    found = of(*rows)
    for one, hashed in zip(rows, found, strict=True):
        for other, hashed_too in zip(rows, found, strict=True):
            assert (hashed == hashed_too) == (one == other)
        assert of(one) == [hashed]


@pytest.mark.parametrize("at_once", [1, 3, 10, 11])
def test_a_hash_does_not_tell_how_many_rows_were_hashed_at_once(monkeypatch, at_once):
    rows = [(n, f"{n}" if n % 3 else None, n / 7, NOW) for n in range(10)]
    alone = [found for row in rows for found in of(row)]
    monkeypatch.setattr(hashing, "AT_ONCE", at_once)
    assert of(*rows) == alone


def test_a_column_that_is_not_there_is_null_in_all_rows():
    rows = frame((1, None, 2.0, None), (2, None, None, None))
    assert np.array_equal(hashes(rows, FIELDS), hashes(rows.drop("b", "d"), FIELDS))


def test_values_count_not_how_a_table_holds_them():
    narrow = frame((1, "x", 29.0, NOW)).with_columns(pl.col("a").cast(pl.Int8), pl.col("c").cast(pl.Int64))
    assert np.array_equal(hashes(narrow, FIELDS), hashes(frame((1, "x", 29.0, NOW)), FIELDS))


def test_each_cell_of_a_wide_row_counts_and_so_does_its_place():
    fields = tuple(Field(name=f"f{n}", type="number", optional=True, example=1.0) for n in range(2 * WORD + 1))
    whole = [0.0] * len(fields)
    rows = [whole, *([*whole[:n], other, *whole[n + 1 :]] for n in range(len(fields)) for other in (None, 1.0))]
    assert len(set(of(*rows, fields=fields))) == len(rows)


def test_of_no_rows_there_are_no_hashes():
    assert hashes(frame(), FIELDS).shape == (0, 2)
    assert text(hashes(frame(), FIELDS)).to_list() == []
