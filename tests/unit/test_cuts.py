"""Where records end is found many at a time, and is where reading them one by one finds it."""

import random

import pytest

from pipelines.adapters import csv_file, plain_text
from pipelines.adapters.plain_text import TooLong
from tests.unit.test_files import EVENTS

PARTS = ["a", "bb,", ",", '"', '""', "\n", "\r\n", "x,y\n", ',"q\n q"\n', ',"z"', "ü"]


def one_by_one(file, *, settled):
    """Pieces of at most three records, by reading each."""
    found = csv_file.header(file)
    pieces, start, stop, first, rows = [], found.size, found.size, 1, 0
    for record in csv_file.records(file, found.size, found.delimiter):
        if not record.endswith(b"\n") and not settled:
            break
        stop, rows = stop + len(record), rows + 1
        if rows == 3:
            pieces.append((start, stop, first, rows))
            start, first, rows = stop, first + 3, 0
    return [*pieces, (start, stop, first, rows)] if rows else pieces


@pytest.mark.parametrize("block", [1, 7, 64, 2**22])
@pytest.mark.parametrize("settled", [True, False])
def test_pieces_are_the_same_however_much_is_looked_through_at_once(tmp_path, monkeypatch, block, settled):
    monkeypatch.setattr(plain_text, "BLOCK", block)
    monkeypatch.setattr(plain_text, "ROWS", 3)
    draw, agreed = random.Random(1), 0
    for number in range(150):
        file = tmp_path / f"{number}.csv"
        file.write_text("id,who\n" + "".join(draw.choices(PARTS, k=draw.randint(0, 40))))
        try:
            wanted = one_by_one(file, settled=settled)
        except TooLong:
            with pytest.raises(TooLong):
                csv_file._cut(file, 7, 1, ",", settled=settled)
            continue
        found = csv_file._cut(file, 7, 1, ",", settled=settled)
        assert [tuple(piece) for piece in found.pieces] == wanted, file.read_bytes()
        agreed += 1
    assert agreed > 50


def test_a_piece_ends_with_the_row_that_passes_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "BYTES", 10)
    file = tmp_path / "events.csv"
    file.write_text("id,who\n" + "1,abcdef\n" * 5)
    cut = csv_file.pieces(file, EVENTS, (0, 1), settled=True)
    assert [(piece.first, piece.rows) for piece in cut.pieces] == [(1, 2), (3, 2), (5, 1)]


def test_a_line_longer_than_a_block_is_one_record(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "BLOCK", 8)
    file = tmp_path / "events.csv"
    file.write_text("id,who\n1," + "x" * 100 + "\n2,y\n")
    cut = csv_file.pieces(file, EVENTS, (0, 1), settled=True)
    assert [tuple(piece) for piece in cut.pieces] == [(7, file.stat().st_size, 1, 2)]


def test_a_line_that_does_not_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "LONGEST", 50)
    monkeypatch.setattr(plain_text, "BLOCK", 8)
    file = tmp_path / "events.csv"
    file.write_text("id,who\n1," + "x" * 100 + "\n2,y\n")
    assert "longer than" in csv_file.pieces(file, EVENTS, (0, 1), settled=True).reason
