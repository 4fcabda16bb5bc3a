"""Where rows come from: a folder, or simulated drops; and a home that knows which."""

import os
from datetime import timedelta

import pytest

from pipelines import catalog, settings, wiring
from pipelines.adapters.sources import FolderSource, SimulatedSource
from pipelines.errors import BadSettings, OriginMismatch
from pipelines.origin import claim
from pipelines.spec import Answers, Files, Sql
from tests.builders import NOW

USE_CASE = catalog.load("calories")
EXERCISE = USE_CASE.table("exercise")


def test_a_folder_offers_the_files_of_the_table_s_glob_the_oldest_change_first(tmp_path):
    for name in ("exercise-b.csv", "exercise-a.csv", "calories.csv", "notes.txt"):
        (tmp_path / name).write_text(name)
    os.utime(tmp_path / "exercise-b.csv", (1, 1))
    source = FolderSource(tmp_path)
    offered = source.arrivals(EXERCISE, NOW)
    assert [arrival.name for arrival in offered] == ["exercise-b.csv", "exercise-a.csv"]
    with source.open(EXERCISE, offered[0]) as content:
        assert content.read() == b"exercise-b.csv"


def test_a_changed_file_has_another_stamp(tmp_path):
    file = tmp_path / "exercise.csv"
    file.write_text("one")
    (before,) = FolderSource(tmp_path).arrivals(EXERCISE, NOW)
    file.write_text("three")
    (after,) = FolderSource(tmp_path).arrivals(EXERCISE, NOW)
    assert before.stamp != after.stamp


def test_a_folder_that_is_not_there_names_the_setting(tmp_path):
    with pytest.raises(BadSettings, match="TOUCHLINE_DATA"):
        FolderSource(tmp_path / "nowhere").arrivals(EXERCISE, NOW)


def test_simulated_drops_come_one_at_once_and_one_a_day_and_are_the_same_bytes_each_time():
    source = SimulatedSource(USE_CASE.simulate, 7, NOW)
    assert len(source.arrivals(EXERCISE, NOW)) == 1
    later = source.arrivals(EXERCISE, NOW + timedelta(days=2, hours=1))
    assert [arrival.name for arrival in later] == [f"simulated-exercise-{n:05}.csv" for n in range(3)]
    again = SimulatedSource(USE_CASE.simulate, 7, NOW)
    assert source.open(EXERCISE, later[1]).read() == again.open(EXERCISE, later[1]).read()
    other = SimulatedSource(USE_CASE.simulate, 8, NOW)
    assert source.open(EXERCISE, later[1]).read() != other.open(EXERCISE, other.arrivals(EXERCISE, NOW)[0]).read()


def test_each_table_has_its_own_source_also_in_a_simulated_home(tmp_path, monkeypatch):
    """Only files of no place are simulated; the others come from where they say."""
    monkeypatch.delenv("TOUCHLINE_DATA", raising=False)
    monkeypatch.setenv("SHOP", f"sqlite:///{tmp_path / 'shop.db'}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "exercise.csv").write_text("x")
    sources = {
        "exercise": EXERCISE.source,
        "folder": Files(pattern="*", at=str(elsewhere)),
        "shop": Sql(url="env:SHOP", query="select 1 as id", cursor="id"),
        "answers": Answers(),
        "bucket": Files(pattern="*", at="s3://bucket/drop"),
    }
    tables = tuple(EXERCISE.model_copy(update={"name": name, "source": one}) for name, one in sources.items())
    case = USE_CASE.model_copy(update={"tables": tables})
    monkeypatch.setattr(wiring, "use_case", lambda *_: case)
    home = tmp_path / "home"
    home.mkdir()
    for each in (home, tmp_path):
        (each / "VERSION").write_text("2")
    names = ("database_url", "airflow_database_url", "mlflow_database_url")
    databases = dict.fromkeys(names, "postgresql://touchline@127.0.0.1:9/touchline")
    chosen = settings.load(home=home, **databases)
    found = wiring.source(chosen, "calories")
    kinds = {name: type(one).__name__ for name, one in found.sources.items()}
    assert kinds == {
        "exercise": "SimulatedSource",
        "folder": "FolderSource",
        "shop": "SqlSource",
        "answers": "AnswersSource",
        "bucket": "BucketSource",
    }
    assert [one.name for one in found.arrivals(case.table("folder"), NOW)] == ["exercise.csv"]
    real = settings.load(home=tmp_path, data=elsewhere, **databases)
    assert type(wiring.source(real, "calories").sources["exercise"]).__name__ == "FolderSource"


def test_a_home_keeps_to_its_origin(tmp_path, monkeypatch):
    monkeypatch.delenv("TOUCHLINE_DATA", raising=False)
    simulated = settings.load(home=tmp_path)
    with pytest.raises(BadSettings, match="was not set up yet"):
        claim(simulated)
    simulated.at.version.write_text("2")
    first = claim(simulated)
    assert (first.kind, claim(simulated)) == ("simulated", first)
    with pytest.raises(OriginMismatch, match=r"holds simulated rows; real ones would mix.*TOUCHLINE_HOME"):
        claim(settings.load(home=tmp_path, data=tmp_path))


def test_a_wrong_setting_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TOUCHLINE_REPLICAS", "many")
    monkeypatch.setenv("TOUCHLINE_BASE_PORT", "80")
    with pytest.raises(BadSettings, match="TOUCHLINE_BASE_PORT") as refused:
        settings.load(home=tmp_path)
    assert "TOUCHLINE_REPLICAS" in str(refused.value)
