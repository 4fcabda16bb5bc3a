"""A draft of fields and suite from rows: a start for a person, which the same rows pass."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from pipelines import cells
from pipelines.adapters.expectations import ExpectationsValidator
from pipelines.drafting import draft_fields, draft_suite
from pipelines.spec import Field
from tests.builders import real_data

ROWS = pl.DataFrame({
    "id": [str(n) for n in range(40)],
    "day": [f"{1 + n % 28:02}/03/24" for n in range(40)],
    "price": [f"{n}.5" for n in range(39)] + ["much"],
    "count": [f"{n}.0" for n in range(40)],
    "kind": ["won", "lost"] * 20,
    "prize": ["7", None] * 20,
    "note": [f"word {n}" for n in range(40)],
})


def test_fields_have_the_kind_that_nearly_all_cells_have():
    told = {field.name: (field.type, field.formats, field.optional) for field in draft_fields(ROWS)}
    assert told == {
        "id": ("integer", (), False),
        "day": ("time", ("%d/%m/%y", "%d/%m/%Y"), False),
        "price": ("number", (), False),
        "count": ("number", (), False),
        "kind": ("text", (), False),
        "prize": ("integer", (), True),
        "note": ("text", (), False),
    }


def test_typed_rows_give_the_same_kinds():
    typed = pl.DataFrame({"n": [1, 2], "x": [0.5, None], "at": [datetime(2024, 1, 2, tzinfo=UTC)] * 2})
    assert [(field.type, field.optional) for field in draft_fields(typed)] == [
        ("integer", False),
        ("number", True),
        ("time", False),
    ]


def test_a_drafted_suite_says_what_the_rows_show_and_they_pass_it(tmp_path):
    suite = draft_suite("bets", ROWS, ("id",))
    rules = {rule["meta"]["id"]: rule for rule in suite["expectations"]}
    assert rules["price_range"]["kwargs"]["max_value"] == pytest.approx(42.3)
    assert rules["price_range"]["severity"] == "warning"
    assert rules["kind_words"]["kwargs"]["value_set"] == ["lost", "won"]
    assert rules["prize_known_kind_won"]["meta"]["reason"] == "prize is missing although kind is won"
    assert rules["key"]["kwargs"] == {"column": "id"}
    assert "note_words" not in rules and "prize_known" not in rules
    assert found(tmp_path, suite, ROWS) == set()


def test_a_drafted_suite_finds_what_is_unlike_these_rows(tmp_path):
    suite = draft_suite("bets", ROWS, ("id",))
    other = ROWS.head(2).with_columns(
        price=pl.lit("900"), kind=pl.Series(["won", "draw"]), prize=pl.lit(None, pl.String)
    )
    assert found(tmp_path, suite, other) == {"price_range", "kind_words", "prize_known_kind_won"}


def test_real_exercise_rows_pass_the_draft_made_of_them(tmp_path):
    rows = pl.read_csv(real_data("calories", "exercise.csv"), infer_schema=False)
    suite = draft_suite("exercise", rows, ("User_ID",))
    assert {field.name: field.type for field in draft_fields(rows)}["Weight"] == "number"
    assert found(tmp_path, suite, rows) == set()


def found(tmp_path, suite, rows):
    """Rules of a drafted suite that rows break."""
    file = tmp_path / "suite.json"
    file.write_text(json.dumps(suite))
    fields = draft_fields(ROWS) if "price" in rows.columns else draft_fields(rows)
    typed = rows.select(cells.value(field).alias(field.name) for field in fields)
    typed = typed.with_columns(received_at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)))
    findings = ExpectationsValidator().validate(typed, file, {"fresh_after": "2025-01-01T00:00:00+00:00"})
    return {finding.rule for finding in findings if not (finding.rule == "price_known" and finding.rows == (39,))}


@pytest.mark.parametrize(
    ("formats", "zone", "text", "told"),
    [
        (("%d/%m/%y", "%d/%m/%Y"), "UTC", "14/08/04", "2004-08-14T00:00"),
        (("%d/%m/%y", "%d/%m/%Y"), "UTC", "14/08/2004", "2004-08-14T00:00"),
        (("%d/%m/%y", "%d/%m/%Y"), "UTC", "2014/8/4", None),
        (("%d/%m/%Y",), "UTC", "14/08/04", None),
        (("%d/%m/%y",), "UTC", "14/08/2004", None),
        (("%d/%m/%y",), "UTC", "01/02/69", "1969-02-01T00:00"),
        (("%d/%m/%y",), "UTC", "31/02/20", None),
        (("%d/%m/%Y %H:%M",), "Europe/Berlin", "01/07/2024 20:30", "2024-07-01T18:30"),
        ((), "Europe/Berlin", "2024-07-01T20:30:00", "2024-07-01T18:30"),
        ((), "Europe/Berlin", "2024-07-01 20:30:00.25+00:00", "2024-07-01T20:30"),
        ((), "Europe/Berlin", "2024-07-01T20:30:00Z", "2024-07-01T20:30"),
        ((), "America/New_York", "2024-07-01", "2024-07-01T04:00"),
        ((), "Europe/Berlin", "2024-03-31T02:30:00", None),
        ((), "Europe/Berlin", "2024-10-27T02:30:00", "2024-10-27T00:30"),
        ((), "UTC", "2024-13-01", None),
    ],
)
def test_a_time_is_read_by_its_formats_alone_and_in_its_zone(formats, zone, text, told):
    field = Field(name="Date", type="time", formats=formats, example="")
    read, why = (
        pl.DataFrame({"Date": [text]}).select(cells.value(field, zone), why=cells.fault(field, zone)).row(0)
    )
    assert (read.strftime("%Y-%m-%dT%H:%M") if read else None) == told
    like = " or ".join(formats) or "2024-01-31T12:00:00Z"
    assert why == (None if told else f"Date: {text} is not a time like {like}")
