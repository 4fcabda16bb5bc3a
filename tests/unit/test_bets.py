"""Bets on real seasons: what the odds already know, and how little a model adds to it."""

import shutil

import pytest

from pipelines import flows, lake
from pipelines.records import Wish
from pipelines.steps.backtest import backtest
from pipelines.steps.snapshot import take_snapshot
from tests.builders import NOW, World, real_data

SEASONS = 19
WINDOWS = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("bets"), "bets")
    for file in sorted(real_data("bets", "football_data").glob("E0_*.csv")):
        shutil.copyfile(file, world.drop / file.name)
    world.ledger = world.ingest()["matches"]
    return world


def test_nineteen_seasons_with_62_to_106_columns_become_one_table(world):
    counts = world.ledger.model_dump()
    assert counts["arrived"] == SEASONS * 380 + 1
    assert (counts["published"], counts["quarantined"]) == (SEASONS * 380, 1)
    at = lake.TableAt(world.tools.tables_at, world.use_case.table("matches"))
    rows = lake.in_force(world.tools.tables, at, NOW)
    assert (rows["Date"].min().year, rows["Date"].max().year) == (2005, 2024)
    assert rows.group_by(rows["_file"]).len()["len"].to_list() == [380] * SEASONS


def test_over_twelve_seasons_the_model_is_no_worse_than_the_odds_and_calibrated(world):
    snapshot = take_snapshot(world.tools, world.use_case, Wish(), NOW)
    told = backtest(world.tools, world.use_case, snapshot, WINDOWS)
    assert len(told.windows) == WINDOWS
    assert told.whole.rows > 10 * 380
    difference, lower, upper = told.whole.against_baseline
    assert upper < 0.005
    assert lower < difference < upper
    assert difference > -0.005, "better than the market by that much is a leak"
    errors = {each.output: each.error for each in told.whole.calibration}
    assert errors["home"] < 0.03
    assert told.whole.passed, told.whole.reason


def test_a_bet_at_these_odds_returns_no_profit_that_the_data_do_not_give(world):
    from pipelines import rows
    from pipelines.steps.train import assembled, judged_rows

    snapshot = take_snapshot(world.tools, world.use_case, Wish(), NOW)
    whole = assembled(world.tools, world.use_case, snapshot)
    columns = rows.columns_of(world.use_case, whole)
    won = whole["is_home"].to_numpy()
    assert (won * columns["home_odds"] - 1).mean() == pytest.approx(-0.013, abs=0.002)
    said = world.use_case.baseline(columns)["home_return"]
    assert (said < 0).all(), "the odds themselves promise a loss"
    assert judged_rows(world.tools, world.use_case, snapshot)["Date"].min().year == 2023


def test_the_whole_flow_makes_a_version_that_may_serve(world):
    promotion = flows.retraining(world.do, Wish(), NOW)
    assert promotion.asked_now
    (evidence,) = world.tools.evidence.book.values()
    assert evidence.may_serve
    assert {each.output for each in evidence.gate.calibration} == {"home", "draw", "away"}
    model = world.tools.tracker.folder(evidence.run_id)
    plots = {file.name for file in (model / "plots").iterdir()}
    assert plots == {
        f"{kind}_{name}.png" for kind in ("reliability", "importance") for name in ("home", "draw", "away")
    }
    assert (model / "tables" / "slices.csv").read_text().startswith("slice,rows,log_loss,")
