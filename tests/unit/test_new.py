"""`touchline new`: from rows to a use case that runs at once."""

import json

import numpy as np
import polars as pl
import pytest

from pipelines import catalog, cli, flows
from pipelines.records import Wish
from tests.builders import NOW, World


@pytest.fixture
def rows():
    random = np.random.default_rng(5)
    n = 900
    size, colour = random.uniform(1, 9, n), random.choice(["red", "green", "blue"], n)
    price = 3 * size + (colour == "red") * 4 + random.normal(0, 0.5, n)
    return pl.DataFrame({
        "id": np.arange(n) + 100, "size": size.round(2), "colour": colour, "note": [f"n{i}" for i in range(n)],
        "price": price.round(2), "cheap": np.where(price < 12, "yes", "no"),
    })  # fmt: skip


def new(tmp_path, rows, *words, code=0):
    drop = tmp_path / "drops"
    drop.mkdir(exist_ok=True)
    rows.write_csv(drop / "wares.csv")
    asked = ["new", "wares", "--from", str(drop / "wares.csv"), "--into", str(tmp_path / "own"), *words]
    assert cli.main([*asked, "--home", str(tmp_path / "home")]) == code
    catalog.forget()
    return drop


def run(tmp_path, drop):
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world", "wares", (tmp_path / "own",))
    (world.drop / "wares.csv").write_bytes((drop / "wares.csv").read_bytes())
    ledger = world.ingest()["rows"]
    promotion = flows.retraining(world.do, Wish(), NOW)
    (evidence,) = world.tools.evidence.book.values()
    return ledger, promotion, evidence


def test_a_number_is_learnt_by_a_regressor_and_the_gate_asks_more_than_always_answering_the_mean(
    tmp_path, rows, capsys
):
    drop = new(tmp_path, rows.drop("cheap"))
    told = capsys.readouterr().out
    assert "regressor of price" in told
    assert "key: id" in told
    assert "inputs: size, colour\nleft out: note\n" in told
    ledger, promotion, evidence = run(tmp_path, drop)
    assert (ledger.published, ledger.quarantined) == (900, 0)
    assert promotion.asked_now
    assert evidence.gate.candidate < evidence.gate.baseline / 3


def test_one_of_two_words_is_learnt_by_a_classifier(tmp_path, rows):
    drop = new(tmp_path, rows, "--target", "cheap", "--key", "id")
    _, promotion, evidence = run(tmp_path, drop)
    assert promotion.asked_now
    assert set(evidence.metrics) == {"log_loss", "auc", "ece"}


def test_rows_without_a_key_are_named_by_their_content(tmp_path, rows, capsys):
    drop = new(tmp_path, rows.drop("id", "note", "cheap"))
    assert "key: the row itself" in capsys.readouterr().out
    ledger, promotion, _ = run(tmp_path, drop)
    assert ledger.published + ledger.duplicate == 900
    assert promotion.asked_now


def test_rows_without_a_key_may_have_empty_cells(tmp_path, rows, capsys):
    gaps = rows.drop("id", "note", "cheap").with_columns(
        colour=pl.when(pl.int_range(pl.len()) % 3 > 0).then("colour"), bonus=pl.lit(None, pl.String)
    )
    drop = new(tmp_path, gaps.select("bonus", "colour", "size", "price"))
    assert "--key), but for what may be empty: bonus, colour\n" in capsys.readouterr().out
    ledger, promotion, _ = run(tmp_path, drop)
    assert (ledger.quarantined, promotion.asked_now) == (0, True)
    new(tmp_path, gaps.select("bonus", "colour", price=pl.when(pl.col("size") > 2).then("price")), code=1)
    assert "only columns with empty cells tell some rows apart: say a --key" in capsys.readouterr().err


def test_names_that_look_like_code_stay_names(tmp_path, rows):
    bad = {
        "size": "si'ze)",
        "note": 'no"te',
        "price": """'''; raise SystemExit('pwned') #""",
        "colour": "{colour} $name %s",
    }
    drop = new(tmp_path, rows.drop("cheap").rename(bad), "--target", bad["price"])
    _, promotion, _ = run(tmp_path, drop)
    assert promotion.asked_now


def test_what_cannot_be_learnt_is_said_and_nothing_is_written(tmp_path, rows, capsys):
    for words, told in (
        (("--target", "colour"), "colour has 3 different words"),
        (("--target", "mood"), "has no column 'mood'; there are: id, size"),
        (("--key", "mood"), "has no column 'mood'"),
    ):
        new(tmp_path, rows, *words, code=1)
        assert told in capsys.readouterr().err
    timed = rows.with_columns(when=pl.datetime(2024, 1, 1) + pl.duration(hours=pl.col("id")))
    new(tmp_path, timed, "--target", "when", code=1)
    assert "when is a time" in capsys.readouterr().err
    new(tmp_path, rows.head(20), code=1)
    assert "20 rows, 50 are the least" in capsys.readouterr().err
    new(tmp_path, rows.with_columns(price=pl.lit(1)), "--target", "price", code=1)
    assert "price is always 1" in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


def test_nothing_is_written_over(tmp_path, rows, capsys):
    new(tmp_path, rows, "--target", "price")
    (tmp_path / "own" / "wares.py").write_text("mine")
    new(tmp_path, rows, "--target", "price", code=1)
    assert "there already; nothing was written" in capsys.readouterr().err
    assert (tmp_path / "own" / "wares.py").read_text() == "mine"


def test_a_name_that_is_taken_elsewhere_leaves_the_folder_as_it_was(tmp_path, rows, capsys):
    drop = new(tmp_path, rows, "--target", "price")
    asked = ["--from", str(drop / "wares.csv"), "--target", "price", "--home", str(tmp_path / "home")]
    assert cli.main(["new", "calories", "--into", str(tmp_path / "own"), *asked]) == 1
    assert "use_cases/calories.py: there already; nothing was written" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "own").glob("*.py")] == ["wares.py"]


def test_a_second_use_case_goes_into_a_folder_that_the_home_knows(tmp_path, rows, capsys, monkeypatch):
    drop = new(tmp_path, rows, "--target", "price")
    monkeypatch.setenv("TOUCHLINE_USE_CASES", json.dumps([str(tmp_path / "own")]))
    asked = ["--from", str(drop / "wares.csv"), "--target", "price", "--home", str(tmp_path / "home")]
    assert cli.main(["new", "goods", "--into", str(tmp_path / "own"), *asked]) == 0
    assert f"TOUCHLINE_USE_CASES='[\"{tmp_path / 'own'}\"]' make up USECASE=goods" in capsys.readouterr().out


def test_its_suite_is_a_draft_of_these_rows(tmp_path, rows):
    new(tmp_path, rows, "--target", "price")
    suite = json.loads((tmp_path / "own" / "expectations" / "wares" / "rows.json").read_text())
    rules = {rule["meta"]["id"] for rule in suite["expectations"]}
    assert {"columns", "size_range", "colour_words", "id_known"} <= rules
