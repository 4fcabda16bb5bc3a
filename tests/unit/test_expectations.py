"""Suites: every kind of rule, rows without the label, the page of a run, ordinary Great Expectations."""

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines import cells
from pipelines.adapters.expectations import ExpectationsValidator
from pipelines.errors import BadUseCase
from pipelines.steps.receive import receive
from pipelines.steps.validate import validate
from tests.builders import NOW
from tests.unit.test_files import HEAD, events_world, put
from tests.unit.test_quarantine import between

ROOT = Path(__file__).parents[2]
ROWS = pl.DataFrame({
    "low": [1.0, 5.0, 3.0, 9.0],
    "high": [2.0, 4.0, 3.0, 10.0],
    "home": ["a", "b", "c", "a"],
    "away": ["x", "b", "y", "x"],
    "tip": [0.0, 1.0, 2.0, 3.0],
    "paid": ["cash", "card", "cash", "card"],
})


def rule(kind, severity="warning", **kwargs):
    return {
        "type": kind,
        "severity": severity,
        "kwargs": kwargs,
        "meta": {"id": kind, "reason": f"{kind} is broken"},
    }


def where(column, operator, parameter):
    return {
        "type": "and",
        "conditions": [
            {"type": "comparison", "column": {"name": column}, "operator": operator, "parameter": parameter}
        ],
    }


def found(tmp_path, rules, rows=ROWS, **more):
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps({"name": "suite", "expectations": rules}))
    return [(one.severity, one.rows) for one in ExpectationsValidator().validate(rows, suite, {}, **more)]


@pytest.mark.parametrize(
    ("broken", "rows"),
    [
        (
            rule(
                "expect_column_pair_values_a_to_be_greater_than_b", column_A="high", column_B="low", or_equal=True
            ),
            (1,),
        ),
        (rule("expect_select_column_values_to_be_unique_within_record", column_list=["home", "away"]), (1,)),
        (rule("expect_compound_columns_to_be_unique", column_list=["home", "away"]), (0, 3)),
        (rule("expect_multicolumn_sum_to_equal", column_list=["low", "high"], sum_total=9), (0, 2, 3)),
        (
            rule(
                "expect_column_values_to_be_between",
                column="tip",
                max_value=0,
                row_condition=where("paid", "==", "cash"),
            ),
            (2,),
        ),
        (rule("expect_column_values_to_match_regex", column="paid", regex="^c..h$"), (1, 3)),
        (rule("expect_column_values_to_be_unique", column="home"), (0, 3)),
    ],
)
def test_rules_across_columns_and_under_conditions_name_each_broken_row(tmp_path, broken, rows):
    assert found(tmp_path, [broken]) == [("warning", rows)]


def test_severity_decides_between_batch_row_and_warning(tmp_path):
    world = events_world(tmp_path, rules=[between(5), {**between(6, "much"), "severity": "info"}])
    put(world, "events.csv", HEAD + "1,a,,4\n2,b,,7\n")
    checked = judged(world)
    assert (checked.failed, checked.broken, checked.warnings) == (None, 1, ("much is broken: 1 rows",))
    suite = world.tools.found.expectations / "events.json"
    suite.write_text(suite.read_text().replace('"warning"', '"critical"'))
    checked = judged(world)
    assert (checked.failed, checked.broken) == ("amount is broken", 1)


def judged(world):
    arrivals = receive(world.tools, world.use_case, "events", NOW)
    return validate(world.tools, world.use_case, arrivals, NOW).batches[0]


def test_one_suite_serves_rows_that_have_no_label_yet(tmp_path):
    rules = [
        rule(
            "expect_table_columns_to_match_set", "critical", column_set=["low", "tip", "home"], exact_match=False
        ),
        rule("expect_column_values_to_be_between", column="tip", max_value=1),
        rule("expect_column_values_to_be_between", column="low", max_value=4, row_condition=where("tip", ">", 0)),
        rule("expect_column_pair_values_a_to_be_greater_than_b", column_A="tip", column_B="low"),
        rule("expect_column_values_to_be_in_set", column="home", value_set=["a", "b"]),
    ]
    for place, one in enumerate(rules):
        one["meta"]["id"] = str(place)
    asked = ROWS.drop("tip")
    assert found(tmp_path, rules, asked, without=("tip",)) == [("warning", (2,))]
    assert found(tmp_path, rules, asked)[0] == ("critical", None)


def test_the_shipped_suite_of_calories_serves_without_the_label(tmp_path):
    asked = pl.DataFrame({"User_ID": [1, 2], "received_at": [datetime(2026, 1, 1, tzinfo=UTC)] * 2})
    suite = ROOT / "expectations" / "calories" / "burnt.json"
    parameters = {"fresh_after": "2025-01-01T00:00:00+00:00"}
    assert ExpectationsValidator().validate(asked, suite, parameters, without=("Calories",)) == ()
    assert ExpectationsValidator().validate(asked, suite, parameters) != ()


def test_the_page_of_a_run_is_kept_small_however_many_rows_broke(tmp_path):
    many = pl.DataFrame({"low": [1.0] * 200_000})
    page = tmp_path / "docs" / "events" / "1.html"
    found(tmp_path, [rule("expect_column_values_to_be_between", column="low", max_value=0)], many, page=page)
    text = page.read_text()
    assert "low" in text and "200,000" in text.replace("200000", "200,000")
    assert len(text) < 200_000
    assert list(page.parent.glob("*.partial")) == []


def test_the_page_is_named_in_the_record_and_in_the_log(tmp_path, caplog):
    world = events_world(tmp_path, rules=[between(5)])
    put(world, "events.csv", HEAD + "1,a,,4\n2,b,,7\n")
    with caplog.at_level("INFO"):
        checked = judged(world)
    assert checked.page == (tmp_path / "docs" / "events" / "00000001.html").as_uri()
    assert Path(checked.page.removeprefix("file://")).exists()
    assert checked.page in caplog.text
    assert "1 rows: amount is broken (rows 2)" in caplog.text
    assert [(one.reason, one.rows, one.first) for one in checked.reasons] == [("amount is broken", 1, (2,))]


def test_the_suites_open_in_an_ordinary_context_of_great_expectations(tmp_path):
    import great_expectations as gx

    context = gx.get_context(mode="file", project_root_dir=tmp_path)
    context.variables.progress_bars = {"globally": False}
    suite = context.suites.add(
        gx.ExpectationSuite(**json.loads((ROOT / "expectations" / "calories" / "burnt.json").read_text()))
    )
    rows = pl.DataFrame({"User_ID": [1, None], "Calories": [50.0, 9999.0], "received_at": [NOW] * 2}).to_pandas()
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    whole = asset.add_batch_definition_whole_dataframe("whole")
    batch = whole.get_batch({"dataframe": rows})
    result = batch.validate(suite, expectation_parameters={"fresh_after": "2025-01-01T00:00:00+00:00"})
    broken = {one.expectation_config.meta["id"] for one in result.results if not one.success}
    assert broken == {"user", "calories"}
    assert (tmp_path / "gx" / "expectations").is_dir()


def test_a_suite_with_a_broken_rule_is_refused_by_its_file(tmp_path):
    with pytest.raises(BadUseCase, match=r"suite\.json: "):
        found(tmp_path, [rule("expect_the_impossible", column="low")])
    with pytest.raises(BadUseCase, match=r"has no meta\.id"):
        found(tmp_path, [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "low"}}])


def test_text_of_typed_cells_reads_back_as_the_same_values():
    typed = pl.DataFrame({"a": [1.5, 1e20], "t": [NOW, None], "n": [2**60, -1], "b": [True, None]})
    assert cells.as_text(typed).rows() == [
        ("1.5", "2026-01-15T12:00:00+00:00", str(2**60), "true"),
        ("1e+20", None, "-1", None),
    ]


def test_drawing_the_page_of_every_shipped_suite_says_nothing_in_the_log(tmp_path, caplog):
    from datetime import UTC, datetime

    from pipelines.use_cases.calories import simulate

    exercise = simulate(7, 0)["exercise"].with_columns(received_at=pl.lit(datetime.now(UTC)))
    suite = Path(__file__).parents[2] / "expectations" / "calories" / "exercise.json"
    given = {"fresh_after": "2020-01-01T00:00:00+00:00"}
    assert ExpectationsValidator().validate(exercise, suite, given, page=tmp_path / "1.html") == ()
    assert "Traceback" not in caplog.text
    assert (tmp_path / "1.html").exists()
