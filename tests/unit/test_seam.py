"""A use case is one file and its suites: a second one, with two parts, goes the whole way from a folder."""

import json
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import catalog, flows
from pipelines.errors import BadUseCase, UnknownUseCase
from pipelines.records import Wish
from tests.builders import NOW, World

RUNNERS = '''
"""Runners: minutes for ten kilometres, and the chance to stay under an hour."""

from datetime import timedelta

import numpy as np

from pipelines import metrics
from pipelines.spec import Field, Files, Gate, Part, Table, UseCase

RUNNER = Field(name="runner", type="text", example="r1")
PACE = Field(name="pace", type="number", unit="min/km", example=5.5)
HILLS = Field(name="hills", type="integer", optional=True, example=3)


def assemble(tables, as_of):
    rows = tables["runs"]
    return rows.with_columns(under_an_hour=(rows["minutes"] < 60).cast(int))


def fit_state(columns):
    return {"hills": float(np.nanmedian(columns["hills"]))}


def features(columns, state):
    hills = np.where(np.isnan(columns["hills"]), state["hills"], columns["hills"])
    return np.column_stack([columns["pace"], hills]).astype(np.float32)


def outputs(raw, columns):
    return {"minutes": raw["duration"], "under_an_hour": raw["chance"]}


USE_CASE = UseCase(
    name="runners",
    owner="club",
    description="Ten kilometres.",
    tables=(Table(name="runs", source=Files(pattern="*.csv"), key=("runner",), columns=(
        RUNNER, PACE, HILLS, Field(name="minutes", type="number", example=55.0))),),
    inputs=(PACE, HILLS),
    entity="runner",
    target="minutes",
    horizon=timedelta(days=1),
    feature_names=("pace", "hills"),
    parts=(
        Part(name="duration", kind="regressor", target="minutes", parameters={"n_estimators": 60}),
        Part(name="chance", kind="classifier", target="under_an_hour", parameters={"n_estimators": 30}),
    ),
    metrics={"mae": metrics.mae("minutes")},
    gate=Gate(metric="mae", at_most=3.0, worse_by_at_most=0.5),
    assemble=assemble, fit_state=fit_state, features=features, outputs=outputs,
    loss=metrics.squared_error("minutes"),
)
'''
SUITE = {
    "name": "runs",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "pace", "min_value": 2, "max_value": 15},
            "severity": "warning",
            "meta": {"id": "pace", "reason": "nobody runs at that pace"},
        }
    ],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own" / "expectations" / "runners").mkdir(parents=True)
    (tmp_path / "own" / "runners.py").write_text(RUNNERS)
    (tmp_path / "own" / "expectations" / "runners" / "runs.json").write_text(json.dumps(SUITE))
    return tmp_path / "own"


def test_a_use_case_with_two_parts_from_a_folder_goes_the_whole_way(folder, tmp_path):
    world = World(tmp_path, "runners", (folder,))
    random = np.random.default_rng(3)
    pace, hills = random.uniform(3.5, 8, 1200), random.integers(0, 9, 1200)
    minutes = pace * 10 + hills + random.normal(0, 0.5, 1200)
    rows = pl.DataFrame({
        "runner": [f"r{n}" for n in range(1200)],
        "pace": pace,
        "hills": hills,
        "minutes": minutes,
    })
    holes = rows.with_columns(hills=pl.when(pl.int_range(1200) % 10 == 0).then(None).otherwise("hills"))
    holes.with_columns(pace=pl.when(pl.int_range(1200) == 5).then(99.0).otherwise("pace")).write_csv(
        world.drop / "a.csv"
    )
    ledger = world.ingest()["runs"]
    assert (ledger.published, ledger.quarantined) == (1199, 1)
    assert flows.retraining(world.do, Wish(), NOW).asked_now
    (evidence,) = world.tools.evidence.book.values()
    assert evidence.may_serve
    model = world.tools.tracker.folder(evidence.run_id)
    parts = {file.name for file in (model / "release").iterdir()}
    assert parts == {
        "duration.ubj", "duration.onnx", "chance.ubj", "chance.onnx", "golden.json", "release.json",
    }  # fmt: skip
    golden = json.loads((model / "release" / "golden.json").read_text())
    assert set(golden["outputs"][0]) == {"minutes", "under_an_hour"}
    assert any("hills" not in row for row in golden["rows"])
    assert (model / "code" / "touchline_use_cases" / "runners.py").exists()


def broken(folder, old, new):
    (folder / "runners.py").write_text(RUNNERS.replace(old, new))
    catalog.forget()
    return pytest.raises(BadUseCase)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('owner="club"', 'owner="club", colour="red"', "colour: Extra inputs are not permitted"),
        ('metric="mae", at_most', 'metric="rmse", at_most', "'rmse' is not among metrics"),
        ('key=("runner",)', 'key=("shoe",)', "key ['shoe'] is not among the columns"),
        ('name="chance"', 'name="duration"', "a name is used twice"),
        ('name="runners"', 'name="joggers"', "must be a UseCase named 'runners'"),
        ("inputs=(PACE, HILLS)", "inputs=(PACE, HILLS, RUNNER)", "are keys of a request"),
        ("import numpy", "import numpyy", "No module named 'numpyy'"),
        ("metrics=", 'labels={"shoes": len}, metrics=', "labels: ['shoes'] are no tables"),
        ('name="hills"', r'name="hi\x00lls"', "name: String should match pattern"),
    ],
)
def test_a_wrong_use_case_is_refused_with_its_file_and_what_is_wrong(folder, old, new, told):
    with broken(folder, old, new) as refused:
        catalog.load("runners", (folder,))
    assert "runners.py" in str(refused.value)
    assert told in str(refused.value)


def test_an_unknown_use_case_is_answered_with_those_there_are(folder):
    with pytest.raises(UnknownUseCase, match=r"there are: bets, calories, runners"):
        catalog.load("darts", (folder,))


def test_a_name_that_exists_twice_is_refused(folder):
    (folder / "calories.py").write_text(textwrap.dedent(RUNNERS))
    with pytest.raises(BadUseCase, match=r"calories exists twice"):
        catalog.find((folder,))


def test_a_file_that_is_edited_counts_as_it_says_now_and_a_broken_one_as_it_said_before(tmp_path, caplog):
    shipped = Path(catalog.__file__).parent / "use_cases" / "calories.py"
    file = tmp_path / "energy.py"
    text = shipped.read_text().replace('name="calories"', 'name="energy"', 1)
    file.write_text(text)
    assert catalog.current("energy", (tmp_path,)).seed == 0
    file.write_text(text.replace("    assemble=assemble,", "    seed=7,\n    assemble=assemble,"))
    assert catalog.current("energy", (tmp_path,)).seed == 7
    file.write_text("USE_CASE = (")
    assert catalog.current("energy", (tmp_path,)).seed == 7
    assert "what energy said before counts" in caplog.text
    with pytest.raises(BadUseCase, match=r"energy\.py"):
        catalog.load("energy", (tmp_path,))
