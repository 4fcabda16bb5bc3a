"""Real files of the field: seasons of football that grow, overlap, are corrected and change their columns."""

import shutil
from datetime import timedelta

import polars as pl
import pytest

from pipelines import lake
from pipelines.spec import Field, Files, Table
from tests.builders import NOW, real_data
from tests.unit.test_files import at, events_world, put
from tests.unit.test_quarantine import rule

ODDS = tuple(
    Field(name=name, type="number", minimum=1, optional=True, example=1.9) for name in ("B365H", "B365D", "B365A")
)
MATCHES = Table(
    name="matches",
    source=Files(pattern="E0_*.csv", zone="Europe/London"),
    key=("Date", "HomeTeam", "AwayTeam"),
    columns=(
        Field(name="Date", type="time", formats=("%d/%m/%y", "%d/%m/%Y"), example="13/08/05"),
        Field(name="Time", type="text", optional=True, example="15:00"),
        Field(name="HomeTeam", type="text", example="Everton"),
        Field(name="AwayTeam", type="text", example="Man United"),
        Field(name="FTHG", type="integer", example=0),
        Field(name="FTAG", type="integer", example=2),
        *ODDS,
    ),
)
RULES = (
    rule("expect_column_values_to_be_between", "goals", column="FTHG", min_value=0, max_value=20),
    rule("expect_column_values_to_be_between", "odds", column="B365H", min_value=1.001, max_value=1000),
)


@pytest.fixture
def world(tmp_path):
    return events_world(tmp_path, MATCHES, RULES)


def ingest(world, now=NOW):
    return world.ingest(now)["matches"].model_dump(exclude={"table"}, exclude_defaults=True)


def matches(world):
    return lake.in_force(world.tools.tables, at(world, "matches"), NOW + timedelta(days=1))


def season(name):
    return real_data("bets", "football_data", f"E0_{name}.csv").read_bytes()


def test_nineteen_seasons_with_other_columns_each_become_one_table(world):
    for file in sorted(real_data("bets", "football_data").glob("E0_*.csv")):
        shutil.copyfile(file, world.drop / file.name)
    assert ingest(world) == {"arrived": 19 * 380 + 1, "published": 19 * 380, "quarantined": 1}
    aside = world.tools.tables.scan(at(world, "matches").aside).collect()
    assert aside.select("file", "row", "reasons").row(0) == (
        "E0_1415.csv",
        381,
        ["the row is empty: separators and nothing between them"],
    )
    found = matches(world)
    assert (found["Date"].min().year, found["Date"].max().year) == (2005, 2024)
    by_season = found.group_by("_file").agg(pl.len(), pl.col("Time").is_not_null().all(), pl.col("B365H").min())
    assert set(by_season["len"]) == {380}
    timed = by_season.filter("Time")["_file"].sort().to_list()
    assert timed == [f"E0_{name}.csv" for name in ("1920", "2021", "2122", "2223", "2324")]
    first = found.filter((pl.col("_file") == "E0_0506.csv") & (pl.col("_row") == 1)).row(0, named=True)
    assert (first["Date"].isoformat(), first["HomeTeam"], first["FTHG"]) == (
        "2005-08-12T23:00:00+00:00",
        "Aston Villa",
        2,
    )
    margin = found.select(
        (1 / pl.col("B365H") + 1 / pl.col("B365D") + 1 / pl.col("B365A")).is_between(1.0, 1.2).all()
    )
    assert margin.item()


def test_a_season_that_is_played_grows_by_its_new_matches_alone(world):
    whole = season("0506").splitlines(keepends=True)
    for played in (1, 11, 200, 381):
        put(world, "E0_0506.csv", b"".join(whole[:played]))
        ledger = ingest(world)
    assert ledger == {"arrived": 380, "published": 380}
    assert matches(world).sort("_batch", "_row")["_row"].to_list() == list(range(1, 381))


def test_two_files_with_overlapping_rows_count_the_common_ones_as_duplicates(world):
    whole = season("2324").splitlines(keepends=True)
    put(world, "E0_a.csv", b"".join(whole[:251]))
    put(world, "E0_b.csv", b"".join([whole[0], *whole[201:]]))
    assert ingest(world) == {"arrived": 430, "published": 380, "duplicate": 50}


def test_a_file_replaced_with_corrections_leaves_what_it_said_before_in_the_history(world):
    before = season("0607")
    put(world, "E0_0607.csv", before)
    ingest(world)
    lines = before.splitlines(keepends=True)
    cells = lines[5].split(b",")
    cells[4] = b"9"
    put(world, "E0_0607.csv", b"".join([*lines[:5], b",".join(cells), *lines[6:]]))
    assert ingest(world, NOW + timedelta(hours=1)) == {
        "arrived": 760,
        "published": 380,
        "revised": 1,
        "duplicate": 379,
    }
    history = world.tools.tables.scan(at(world, "matches").published).collect()
    told = history.filter(pl.len().over(list(MATCHES.key)) > 1).sort("_revision")
    old = int(before.splitlines()[5].split(b",")[4])
    assert told.select("FTHG", "_row", "_revision").rows() == [(old, 5, 1), (9, 5, 2)]
    then = lake.in_force(world.tools.tables, at(world, "matches"), NOW)
    assert then.filter(pl.col("_row") == 5)["FTHG"].item() == old


def test_dates_that_a_spreadsheet_turned_are_refused_although_each_of_them_reads(world):
    """Season 2004-05: `14/08/04` became `2014/8/4`, so every date is wrong, from 1930 to 2029."""
    shutil.copyfile(real_data("messy", "football_broken_dates", "E0_0405.csv"), world.drop / "E0_0405.csv")
    assert ingest(world) == {"arrived": 380, "quarantined": 380}
    told = world.tools.tables.scan(at(world, "matches").aside).collect()["reasons"]
    assert all("Date changed its type: 380 of 380" in reasons[0] for reasons in told)
    assert "Date: 2014/8/4 is not a time like %d/%m/%y or %d/%m/%Y" in told[0].to_list()


PLAUSIBLE = {
    "type": "expect_column_values_to_be_between",
    "severity": "critical",
    "kwargs": {
        "column": "Date",
        "min_value": "1993-01-01T00:00:00+00:00",
        "max_value": {"$PARAMETER": "now"},
        "mostly": 0.95,
    },
    "meta": {"id": "plausible", "reason": "Date is before 1993 or in the future: no match was played then"},
}


def test_turned_dates_are_refused_also_where_their_way_of_writing_is_declared(tmp_path):
    date = MATCHES.columns[0].model_copy(update={"formats": ("%d/%m/%y", "%d/%m/%Y", "%Y/%m/%d")})
    table = MATCHES.model_copy(update={"columns": (date, *MATCHES.columns[1:])})
    world = events_world(tmp_path, table, (PLAUSIBLE,))
    put(world, "E0_0506.csv", season("0506"))
    shutil.copyfile(real_data("messy", "football_broken_dates", "E0_0405.csv"), world.drop / "E0_0405.csv")
    assert ingest(world) == {"arrived": 760, "published": 380, "quarantined": 380}
    told = world.tools.tables.scan(at(world, "matches").aside).collect()
    assert all(reasons[0] == PLAUSIBLE["meta"]["reason"] for reasons in told["reasons"])
    assert set(matches(world)["_file"]) == {"E0_0506.csv"}
