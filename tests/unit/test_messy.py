"""Real broken tables: bad rows are held back with a reason a person understands, good ones go on."""

import pytest

from tests import messy


@pytest.mark.parametrize(
    ("made", "precision", "recall"),
    [(messy.hospital, 0.95, 0.95), (messy.healthcare, 0.95, 0.95), (messy.imdb, 0.85, 0.95)],
)
def test_the_quarantine_holds_the_bad_rows_of_a_broken_table_and_hardly_any_other(
    tmp_path, made, precision, recall
):
    found = messy.judge(made(), tmp_path)
    assert (found.precision >= precision, found.recall >= recall) == (True, True), found
    assert found.ledger["published"] > 0
    assert 0 < found.bad < found.ledger["arrived"]


def test_films_are_read_through_their_encoding_and_their_empty_row_is_told(tmp_path):
    found = messy.judge(messy.imdb(), tmp_path)
    assert found.ledger["arrived"] == 101
    assert found.reasons["the row is empty: separators and nothing between them"] == 1
    assert found.reasons["Score: 8,9f is not a number"] == 1
    assert found.reasons["Release year: 1984-02-34 is not a time like %Y-%m-%d"] == 1


def test_dates_of_five_kinds_are_read_where_all_five_are_declared(tmp_path):
    found = messy.judge(messy.healthcare(), tmp_path)
    assert not [reason for reason in found.reasons if reason.startswith("Visit Date")]
    assert found.reasons["Age: forty is not a whole number"] == 176
