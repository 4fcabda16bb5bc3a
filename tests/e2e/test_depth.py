"""The loop, deep, on the real stack: a second kind of use case, reasons, notices, Data Docs, simulated clients."""

import json
import urllib.error
import urllib.request

import polars as pl
import pytest

from pipelines.adapters.airflow_rest import of_home, wait_for_run
from tests.builders import football
from tests.conftest import wait_for


def run(stack, dag, **conf):
    """One run of a DAG with its form filled in; (id, state)."""
    rest = of_home(stack.settings)
    started = rest.trigger(dag, conf)
    return started, wait_for_run(rest, dag, started)


def log_of(stack, dag, started, task):
    rest = of_home(stack.settings)
    (found,) = [each for each in rest.tasks(dag, started) if each.task == task]
    return "\n".join(rest.log(dag, started, found))


# --- a second kind of use case, in files of its own ---------------------------------------------------------


def drop(stack, rows, name):
    """Matches as football-data.co.uk writes them."""
    written = rows.with_columns(pl.col("Date").dt.strftime("%d/%m/%Y"), Div=pl.lit("E0"))
    written.write_csv(stack.data / name)


@pytest.fixture(scope="module")
def bets(stack):
    """Bets in the same home: unpaused, ingested and trained by Airflow; serving."""
    rest = of_home(stack.settings)
    assert rest.is_paused("retrain_bets"), "only what the home was started for runs by its schedule"
    drop(stack, football(9000), "E0_0001.csv")
    for dag in ("ingest_bets", "retrain_bets"):
        rest.unpause(dag)
        started, state = run(stack, dag)
        assert state == "success", [each for each in rest.tasks(dag, started)]
    wait_for(lambda: stack.ask("/bets/predict", ODDS).status == 200, "bets to serve", 180)
    return stack


ODDS = {"home_odds": 1.9, "draw_odds": 3.6, "away_odds": 4.2}


def test_bets_answers_calibrated_probabilities_and_returns_beside_calories(bets):
    answer = bets.ask("/bets/predict", {**ODDS, "home_points": 2.1, "match": "2031-01-01 Team 3 - Team 4"})
    output = answer.body["output"]
    assert output["home"] + output["draw"] + output["away"] == pytest.approx(1)
    assert output["home_return"] == pytest.approx(output["home"] * 1.9 - 1)
    assert bets.ask("/bets/predict", {**ODDS, "draw_odds": 0.5}).body["error"]["code"] == "out_of_bounds"
    assert bets.ask("/calories/predict", bets.row()).status == 200
    gate = bets.status()["use_cases"]["bets"]["gate"]
    assert "against no model" in gate
    assert "(a calibrated model: up to " in gate


def test_a_result_that_comes_in_a_later_file_is_the_label_of_the_prediction_of_its_match(bets):
    known = football(9000).with_columns(pl.col("Date").dt.offset_by("10y"))
    result = known.head(1).with_columns(FTHG=pl.lit(2), FTAG=pl.lit(0), HomeTeam=pl.lit("Team X"))
    match = f"{result['Date'][0]:%Y-%m-%d} Team X - {result['AwayTeam'][0]}"
    before = labelled(bets, "bets")
    assert bets.ask("/bets/predict", {**ODDS, "match": match}).status == 200
    drop(bets, result, "E0_0002.csv")
    assert run(bets, "ingest_bets")[1] == "success"
    wait_for(lambda: labelled(bets, "bets") == before + 1, "the label of the match", 120)


def labelled(stack, use_case):
    return sum(each["labelled"] for each in stack.status()["use_cases"][use_case]["labels"])


# --- why a training ran, and who hears when it does not -----------------------------------------------------


def test_a_run_says_why_and_trains_on_what_its_form_asks_for(stack):
    started, state = run(stack, "retrain_calories", reason="a look at the form", snapshot="")
    assert state == "failed", "an empty beginning names no single snapshot"
    rest = of_home(stack.settings)
    asset = next(each for each in rest._get("/assets?name_pattern=calories_labels")["assets"])
    before = len(rest.runs("retrain_calories", 50))
    told = {"reason": "612 new labels, 500 ask for a training"}
    rest._call("POST", "/assets/events", {"asset_id": asset["id"], "extra": told})
    wait_for(lambda: len(rest.runs("retrain_calories", 50)) > before, "the run that the labels asked for", 120)
    started = rest.runs("retrain_calories", 1)[0][0]
    assert started.startswith("asset_triggered")
    assert wait_for_run(rest, "retrain_calories", started) == "success"
    assert "calories trains: 612 new labels, 500 ask for a training" in log_of(
        stack, "retrain_calories", started, "take_snapshot"
    )


def test_a_failed_run_reaches_a_person_once_with_its_cause_and_a_link(stack):
    started, state = run(stack, "retrain_calories", as_of="2020-01-01T00:00:00Z")
    assert state == "failed"

    def heard():
        return [each for each in stack.heard if started in each["key"]]

    wait_for(heard, "the notice", 120)
    (notice,) = heard()
    assert notice["title"] == "retrain_calories failed"
    assert "take_snapshot: " in notice["body"]
    assert "nothing is published yet in exercise, burnt" in notice["body"]
    assert f"/dags/retrain_calories/runs/{started}" in notice["body"]
    stack.run("status")
    assert len(heard()) == 1


# --- Data Docs ----------------------------------------------------------------------------------------------


def page(stack, path, token=None):
    url = f"http://127.0.0.1:{stack.settings.ports.airflow}{path}"
    request = urllib.request.Request(url, headers={"cookie": f"_token={token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, ""


def test_a_validation_is_linked_to_its_data_docs_page_which_only_those_signed_in_see(stack):
    rest = of_home(stack.settings)
    started = [run for run, state, _ in rest.runs("ingest_calories", 50) if state == "success"][-1]
    links = rest._get(
        f"/dags/ingest_calories/dagRuns/{urllib.request.quote(started, safe='')}"
        "/taskInstances/exercise.validate/links?map_index=-1"
    )["extra_links"]
    path = links["Data Docs"].partition(f":{stack.settings.ports.airflow}")[2]
    assert path.startswith("/data-docs/calories/exercise/")
    token = rest._signed_in()
    status, text = page(stack, path, token)
    assert status == 200
    assert "expect_column" in text or "Expectation" in text
    assert page(stack, path)[0] in {401, 403}
    assert page(stack, "/data-docs/calories/exercise", token)[0] == 200
    assert page(stack, "/data-docs/calories/..%2f..%2fsecrets/1.html", token)[0] == 404


# --- clients, simulated -------------------------------------------------------------------------------------


def test_simulated_clients_and_their_late_labels_show_up_in_quality(stack):
    before = labelled(stack, "calories")
    words = ("simulate", "calories", "--rows", "150", "--rate", "100", "--seed", "3", "--json")
    told, _ = json.JSONDecoder().raw_decode(stack.run(*words))
    assert told["answered"] == 150
    assert told["refused"] == {}
    wait_for(lambda: labelled(stack, "calories") >= before + 150, "the labels", 120)
    quality = stack.run("quality", "calories")
    assert "rmse" in quality
