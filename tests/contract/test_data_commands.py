"""The commands about data, as a person types them, with the real locks and the real book."""

import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from pipelines import cli, migrations, runner, wiring
from pipelines import settings as settings_of
from pipelines.steps.publish import publish
from pipelines.steps.receive import receive
from pipelines.steps.validate import validate
from tests.unit.test_ingestion import EXERCISE, GOOD

BAD = "3,robot,30,180,80,20,100,39.5\n4,robot,30,999,80,20,100,39.5\n5,male,30,180\n"


@pytest.fixture
def say(postgres, tmp_path, monkeypatch, capsys):
    """Run a command in a home of its own, whose files are in `tmp_path/drop`; its exit code and its words."""
    name = f"commands_{tmp_path.name.translate(str.maketrans('-.[]', '____'))[-30:]}".lower()
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} owner touchline")
    url = postgres.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(url)
    home, drop = tmp_path / "home", tmp_path / "drop"
    home.mkdir()
    (home / "VERSION").write_text("2")
    drop.mkdir()
    databases = dict.fromkeys(("DATABASE_URL", "AIRFLOW_DATABASE_URL", "MLFLOW_DATABASE_URL"), url)
    named = {"HOME": home, "DATA": drop, "MLFLOW_URL": "http://127.0.0.1:9", **databases}
    for variable, value in named.items():
        monkeypatch.setenv(f"TOUCHLINE_{variable}", str(value))
    (drop / "exercise.csv").write_text(EXERCISE + GOOD + BAD)
    (drop / "calories.csv").write_text("User_ID,Calories\n1,100\n2,50\n")

    def run(*words):
        capsys.readouterr()
        code = cli.main([*words])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


def test_the_way_of_a_quarantined_row_from_list_to_replay_and_discard(say, tmp_path):
    say("ingest", "calories")
    code, told = say("quarantine", "list", "calories", "--json")
    counts = {line["reason"]: line["rows"] for line in json.loads(told)}
    assert code == 0
    assert counts == {
        "Gender is neither female nor male": 2,
        "Height is outside 100 to 250 cm": 1,
        "the line has 4 cells, the header 8": 1,
    }
    _, told = say("quarantine", "show", "calories", "--reason", "Height")
    assert "exercise batch 1 row 4 of exercise.csv: Gender is neither" in told
    assert '"Gender": "robot"' in told
    _, table = say("quarantine", "show", "calories", "--csv")
    assert table.splitlines()[0].startswith("_table,_batch,_row,_reasons,_file,User_ID,Gender")
    fixed = tmp_path / "fixed.csv"
    fixed.write_text(table.replace("robot", "male"))
    _, told = say("quarantine", "replay", "calories", "--table", "exercise", "--fixed", str(fixed), "--json")
    assert [json.loads(told)[0][name] for name in ("published", "broken", "unknown")] == [1, 2, 0]
    _, told = say("quarantine", "replay", "calories", "--table", "exercise", "--fixed", str(fixed))
    assert "exercise: 0 published, 0 revised, 0 duplicate, 2 broken\n  1 corrected rows do not wait" in told
    code, told = say("quarantine", "discard", "calories", "--by", "Jo", "--why", "no such person")
    assert (code, "exercise: 2 rows discarded" in told) == (0, True)
    assert say("quarantine", "list", "calories") == (0, "nothing waits in quarantine\n")
    _, told = say("ingest", "calories", "--json")
    exercise = next(each for each in json.loads(told) if each["table"] == "exercise")
    assert [exercise[name] for name in ("arrived", "published", "quarantined", "discarded")] == [5, 3, 0, 2]


def test_discard_asks_who_and_why(say, capsys):
    with pytest.raises(SystemExit):
        cli.main(["quarantine", "discard", "calories"])
    assert "--by, --why" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["quarantine", "discard", "calories", "--by", "Jo", "--why", " "])
    assert "argument --why: say it in words" in capsys.readouterr().err


def test_rows_to_be_corrected_are_shown_all_and_to_people_some(say, tmp_path, capsys):
    more = "".join(f"{n},robot,30,180,80,20,100,39.5\n" for n in range(10, 40))
    (tmp_path / "drop" / "exercise-more.csv").write_text(EXERCISE + more)
    say("ingest", "calories")
    _, table = say("quarantine", "show", "calories", "--csv")
    assert len(table.splitlines()) == 1 + 33
    assert len(json.loads(say("quarantine", "show", "calories", "--json")[1])) == 33
    assert say("quarantine", "show", "calories")[1].endswith("and 13 more: --limit 33, or --csv\n")
    _, told = say("quarantine", "show", "calories", "--limit", "33")
    assert (told.count("batch"), "more" in told.splitlines()[-1]) == (33, False)
    with pytest.raises(SystemExit):
        say("quarantine", "show", "calories", "--limit", "-1")
    assert say("quarantine", "show", "calories", "--table", "burnt", "--csv") == (
        0,
        "nothing waits in quarantine\n",
    )


def test_a_file_of_corrections_must_name_its_rows_and_its_table(say, tmp_path):
    fixed = tmp_path / "fixed.csv"
    fixed.write_text("User_ID,Gender\n3,male\n")
    code, told = say("quarantine", "replay", "calories", "--fixed", str(fixed))
    assert (code, "named by the columns _batch and _row" in told) == (1, True)
    fixed.write_text("_batch,_row,User_ID\n1,3,3\n")
    assert "say by --table" in say("quarantine", "replay", "calories", "--fixed", str(fixed))[1]
    asked = ("quarantine", "replay", "calories", "--table", "exercise", "--fixed", str(fixed))
    fixed.write_text("_batch,_row,User_ID\n1,three,3\n")
    code, told = say(*asked)
    assert (code, "_batch '1', _row 'three' names no row" in told) == (1, True)
    fixed.write_text("_batch,_row\n1,3\n")
    code, told = say(*asked)
    assert (code, "no column to correct" in told) == (1, True)
    assert "has no table sweets" in say("quarantine", "list", "calories", "--table", "sweets")[1]


def test_validate_judges_what_waits_and_publishes_nothing(say, tmp_path):
    code, told = say("validate", "calories")
    assert code == 0
    assert "exercise batch 1 (exercise.csv, 5 rows): 2 rows good, 3 broken" in told
    assert "        2 rows: Gender is neither female nor male (rows 3, 4)" in told
    page = told.partition("page: file://")[2].splitlines()[0]
    assert "Gender" in Path(page).read_text()
    assert json.loads(say("validate", "calories", "--json")[1])[0]["batches"][0]["broken"] == 3
    _, told = say("ingest", "calories", "--json")
    assert json.loads(told)[0]["arrived"] == 5


def test_who_looks_at_what_waits_takes_nothing_from_a_run_that_is_about_to_publish_it(say, tmp_path):
    settings = settings_of.load()
    use_case, tools = wiring.use_case(settings, "calories"), wiring.tools(settings, "calories")
    do, now = runner.here(tools, use_case), datetime.now(UTC)
    checked = do(validate)(do(receive)("exercise", now), now)
    assert [say("validate", "calories", "--table", "exercise")[0] for _ in range(3)] == [0, 0, 0]
    assert do(publish)(checked).published == 2
    assert list((Path(tools.tables_at) / "exercise" / "checked").iterdir()) == []


def test_validate_judges_a_file_of_which_nothing_arrives(say, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(EXERCISE.replace("Age,", "") + "1,male,180,80,20,100,39.5\n")
    code, told = say("validate", "calories", "--table", "exercise", "--file", str(other))
    assert (code, "refused: no column Age" in told) == (1, True)
    code, told = say("validate", "calories", "--table", "exercise", "--file", str(other), "--without", "Age")
    assert (code, "1 rows good, 0 broken" in told) == (0, True)
    other.write_text(EXERCISE.replace("User_ID,", "") + "male,20,180,80,20,100,39.5\n" * 2)
    code, told = say("validate", "calories", "--table", "exercise", "--file", str(other), "--without", "User_ID")
    assert (code, "2 rows good, 0 broken" in told) == (0, True)
    assert "say by --table" in say("validate", "calories", "--file", str(other))[1]
    _, told = say("ingest", "calories", "--json")
    assert json.loads(told)[0]["arrived"] == 5


def test_a_suite_is_suggested_and_never_written_over_another(say, tmp_path):
    assert "nothing is published yet" in say("suggest-expectations", "calories", "--table", "burnt")[1]
    say("ingest", "calories")
    _, told = say("suggest-expectations", "calories", "--table", "burnt")
    ids = [rule["meta"]["id"] for rule in json.loads(told)["expectations"]]
    assert {"columns", "volume", "key", "User_ID_known", "Calories_range"} <= set(ids)
    out = tmp_path / "drafts" / "burnt.json"
    source = str(tmp_path / "drop" / "calories.csv")
    asked = ("suggest-expectations", "calories", "--table", "burnt", "--from", source, "--out", str(out))
    assert say(*asked) == (0, "")
    code, told = say(*asked)
    assert (code, "--force overwrites it" in told) == (1, True)
    assert say(*asked, "--force") == (0, "")
    assert "say one of exercise, burnt" in say("suggest-expectations", "calories")[1]
