"""`simulate`, `label` and `quality` beside a real place, the real proxy and a real PostgreSQL."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest

from pipelines import catalog, cli, migrations
from pipelines.predictions import label_clock, shipper, spool
from pipelines.rollout.proxy import Backend, Line
from tests.conftest import wait_for
from tests.places import make_bento, proxied, starting
from tests.releases import ROW, make_release


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The spool of a place that answers behind the proxy, and the proxy's port."""
    root = tmp_path_factory.mktemp("served")
    bento = make_bento(make_release(root / "release"), "1", root / "store").path
    with starting(bento, root) as start, proxied(root / "proxy") as proxy:
        line = Line("a", start("a").port, 100, "stable")
        proxy.apply((Backend("calories", timedelta(seconds=2), 245_760, "User_ID", (line,)),))
        yield root / "spool", proxy.port


@pytest.fixture
def url(postgres):
    name = "clients"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name}")
        connection.execute(f"create database {name} owner touchline")
    own = postgres.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(own)
    return own


@pytest.fixture
def run(served, url, monkeypatch, capsys, home):
    """A command of this home: what it wrote, and its exit code."""
    monkeypatch.setenv("TOUCHLINE_BASE_PORT", str(served[1]))
    monkeypatch.delenv("TOUCHLINE_DATA", raising=False)
    for database in ("DATABASE_URL", "AIRFLOW_DATABASE_URL", "MLFLOW_DATABASE_URL"):
        monkeypatch.setenv(f"TOUCHLINE_{database}", url)
    monkeypatch.setenv("TOUCHLINE_HOME", str(home.root))

    def command(*words: str, code: int = 0):
        ended = cli.main(list(words))
        said = capsys.readouterr()
        assert ended == code, said.err
        return json.loads(said.out) if "--json" in words else said.out + said.err

    return command


@contextmanager
def shipped(spool, url):
    """What the spool holds is in the log, and joined."""
    with shipper.connect(url) as connection:
        shipper.ship(connection, spool)
        label_clock.catch_up(connection, catalog.load)
        yield connection


def rows_in(connection):
    words = "select inputs, entity_key from predictions order by requested_at, seq"
    return connection.execute(words).fetchall()


def test_a_simulation_is_answered_labelled_and_the_same_for_the_same_seed(served, url, run):
    words = (
        "simulate",
        "calories",
        "--rate",
        "300",
        "--rows",
        "150",
        "--label-loss",
        "0.2",
        "--label-delay",
        "200ms",
    )
    first = run(*words, "--seed", "5", "--json")
    assert (first["sent"], first["answered"], first["refused"]) == (150, 150, {})
    assert first["labels"] + first["labels_lost"] == 150
    assert first["latency_ms"]["p50"] <= first["latency_ms"]["p99"]
    with shipped(served[0], url) as connection:
        before = rows_in(connection)
    again = run(*words, "--seed", "5", "--json")
    assert [again[name] for name in ("labels", "labels_lost", "mean_loss")] == [
        first[name] for name in ("labels", "labels_lost", "mean_loss")
    ]
    with shipped(served[0], url) as connection:
        both = rows_in(connection)
    assert sorted(map(str, both[len(before) :])) == sorted(map(str, before[-150:]))
    ever = run("quality", "calories", "--window", "ever", "--json")["quality"]
    (one,) = (each for each in ever if each["slice"] == "all")
    assert (one["role"], one["recorded"], one["labelled"]) == ("stable", 300, first["labels"] + again["labels"])
    assert one["metrics"]["rmse"]["n"] == one["labelled"]
    assert "stable" in run("quality", "calories")


def test_an_interrupt_ends_a_simulation_with_its_summary(served, home):
    words = [sys.executable, "-m", "pipelines.cli", "simulate", "calories", "--duration", "10m", "--json"]
    environment = {**os.environ, "TOUCHLINE_BASE_PORT": str(served[1]), "TOUCHLINE_HOME": str(home.root)}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    before = len(list(spool.read_all(served[0])))
    wait_for(lambda: len(list(spool.read_all(served[0]))) > before + 5, "some answers")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    done = json.loads(said)
    assert (process.returncode, done["interrupted"]) == (0, True)
    assert done["answered"] >= 1


def test_labels_by_key_meet_their_predictions(served, url, run):
    done = run("simulate", "calories", "--rows", "40", "--batch", "8", "--rate", "50", "--seed", "77",
               "--labels-by", "key", "--label-delay", "50ms", "--json")  # fmt: skip
    assert (done["requests"], done["labels"]) == (5, 40)
    with shipped(served[0], url) as connection:
        words = (
            "select count(*) from outcomes o join labels l on l.seq = o.label_seq where l.entity_key is not null"
        )
        assert connection.execute(words).fetchone() == (40,)


def test_rows_that_the_endpoint_refuses_are_counted_by_their_reason(run, tmp_path):
    (tmp_path / "exercise.csv").write_text(
        "User_ID,Gender,Age,Height,Weight,Duration,Heart_Rate,Body_Temp\n"
        "1,male,68,190,94,29,105,40.8\n2,female,20,166,1,14,94,40.3\n"
    )
    (tmp_path / "calories.csv").write_text("User_ID,Calories\n1,231\n2,66\n")
    done = run("simulate", "calories", "--from", str(tmp_path), "--rows", "10", "--rate", "100", "--json")
    assert (done["answered"], done["refused"]) == (5, {"out_of_bounds": 5})


def test_one_label_is_told_by_hand(served, url, run):
    assert "1 accepted" in run("label", "calories", "--id", "mine", "--actual", "5")
    said = run("label", "calories", "--key", "9", "--actual", "5", "--event-time", "2026-01-01T00:00:00Z")
    assert "1 accepted" in said
    with shipped(served[0], url) as connection:
        kept = connection.execute("select prediction_id, entity_key from labels order by seq").fetchall()
    assert kept[-2:] == [("mine", None), (None, "9")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_of_labels_is_told_and_bad_rows_are_named(run, tmp_path, kind):
    file = tmp_path / f"labels.{kind}"
    if kind == "csv":
        file.write_text(
            "prediction_id,key,actual,observed_at\np,,1.5,\n,5,2,2026-01-01T00:00:00Z\n,,3,\nq,,much,\n"
        )
    else:
        rows = [{"prediction_id": "p", "actual": 1.5}, {"key": 5, "actual": 2}, {"actual": 3}]
        rows.append({"prediction_id": "q", "actual": "much"})
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run("label", "calories", "--file", str(file), "--json", code=1)
    assert told["accepted"] == 2
    assert [(each["row"], each["code"]) for each in told["refused"]] == [(3, "missing_field"), (4, "wrong_type")]


def test_where_every_label_is_refused_each_reason_is_told(run, tmp_path):
    file = tmp_path / "labels.jsonl"
    file.write_text('{"actual": 3}\n{"prediction_id": "x"}\n')
    told = run("label", "calories", "--file", str(file), "--json", code=1)
    assert [(each["row"], each["field"]) for each in told["refused"]] == [(1, "prediction_id"), (2, "actual")]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"prediction_id": "x", "actual": 1}\n[1]\n', "line 2 is no JSON object: [1]"),
        ("a.jsonl", "\n{what\n", "line 2 is no JSON: Expecting property name"),
        ("a.csv", "prediction_id,actual\nx,1,2\n", "line 2 has more cells than the header"),
    ],
)
def test_a_file_that_is_no_list_of_labels_is_refused_by_its_line(run, tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    assert told in run("label", "calories", "--file", str(tmp_path / name), code=1)


def test_what_no_json_can_carry_is_refused_as_a_number(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["label", "calories", "--id", "x", "--actual", "nan"])
    assert "argument --actual: invalid finite value: 'nan'" in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("prediction_id,actual\nx,inf\n")
    told = run("label", "calories", "--file", str(tmp_path / "a.csv"), "--json", code=1)
    assert [(each["code"], each["field"]) for each in told["refused"]] == [("wrong_type", "actual")]


def test_a_wrong_option_is_named_as_it_is_written(run):
    assert "--label-loss: Input should be" in run("simulate", "calories", "--label-loss", "2", code=1)


def test_nobody_there_is_a_passing_error(run, monkeypatch):
    monkeypatch.setenv("TOUCHLINE_BASE_PORT", "1024")
    assert "try again" in run("label", "calories", "--id", "x", "--actual", "1", code=75)
    assert "try again" in run("simulate", "calories", "--rows", "1", code=75)


def test_a_request_that_the_place_takes_is_what_simulated_clients_send():
    assert set(ROW) <= {field.name for field in catalog.load("calories").inputs}
