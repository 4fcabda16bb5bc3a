"""The whole loop on the real stack: from a drop to an answered, labelled prediction; and what may go wrong."""

import hashlib
import json
import shutil
import subprocess

import mlflow
import pandas as pd
import psycopg
import pytest
from mlflow import MlflowClient

from pipelines.adapters.airflow_rest import of_home
from tests.builders import real_data
from tests.conftest import wait_for
from tests.e2e import conftest as world
from tests.e2e.clients import asking

NO_ROW_LOST = ("published", "revised", "quarantined", "duplicate", "discarded")


def balanced(case):
    return all(ledger["arrived"] == sum(ledger[name] for name in NO_ROW_LOST) for ledger in case["ledger"])


def event_told(stack, text):
    return any(text in event["message"] for event in stack.case()["events"])


def mlflow_of(stack):
    return MlflowClient(stack.settings.mlflow)


# --- what `up` leaves --------------------------------------------------------------------------------------


def test_up_ends_with_an_answered_prediction_from_a_model_that_airflow_trained(stack):
    assert "running retrain_calories" in stack.output
    assert '"model_version": "1"' in stack.output
    case = stack.case()
    assert (case["champion"], case["gate"].split()[0]) == ("1", "rmse")
    assert [place["role"] for place in case["places"]] == ["stable", "stable"]
    assert balanced(case)


def test_airflow_shows_both_dags_without_an_import_error_or_a_warning(stack):
    rest = of_home(stack.settings)
    assert {"ingest_calories", "retrain_calories"} <= rest.dags()
    assert rest.import_errors() == {}


def test_an_answer_names_its_version_its_role_and_its_record(stack):
    answer = stack.ask("/calories/predict", stack.row(prediction_id="mine", User_ID=7))
    assert answer.status == 200
    assert set(answer.body) == {"prediction_id", "output", "model_version", "warnings"}
    assert answer.headers["x-model-version"] == answer.body["model_version"]
    assert answer.headers["x-slot"] == "stable"
    ids = [answer.body["prediction_id"]]
    wait_for(lambda: logged(stack, ids) == 1, "the record")
    with psycopg.connect(stack.settings.database) as connection:
        query = (
            "select client_id, entity_key, role, model_version, outputs from predictions where prediction_id = %s"
        )
        recorded = connection.execute(query, (ids[0],)).fetchone()
    assert recorded == ("mine", "7", "stable", "1", answer.body["output"])


def test_the_model_route_tells_what_answers(stack):
    told = stack.ask("/calories/model").body
    assert told["version"] == "1"
    assert [feature["name"] for feature in told["features"]][:2] == ["Gender", "Age"]
    assert told["metrics"]["rmse"] < 3
    assert told["logged"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics", "/docs.json"])
def test_the_routes_that_operators_expect_answer(stack, path):
    assert stack.ask(f"/calories{path}").status == 200


def logged(stack, ids):
    try:
        with psycopg.connect(stack.settings.database) as connection:
            query = "select count(distinct prediction_id) from predictions where prediction_id = any(%s)"
            return connection.execute(query, (ids,)).fetchone()[0]
    except psycopg.OperationalError:
        return -1


# --- bad requests ------------------------------------------------------------------------------------------

NO_AGE = {"Gender": "male", "Height": 180, "Weight": 80, "Duration": 10, "Heart_Rate": 100, "Body_Temp": 39}
BAD = [
    ("missing field", NO_AGE, 422, "missing_field", "Age"),
    ("wrong type", {**NO_AGE, "Age": "old"}, 422, "wrong_type", "Age"),
    ("unknown field", {**NO_AGE, "Age": 30, "Mood": 1}, 422, "unknown_field", "Mood"),
    ("out of bounds", {**NO_AGE, "Age": 30, "Weight": -1}, 422, "out_of_bounds", "Weight"),
    ("no choice", {**NO_AGE, "Age": 30, "Gender": "x"}, 422, "not_a_choice", "Gender"),
    ("local time", {**NO_AGE, "Age": 30, "event_time": "2026-01-01T00:00:00"}, 422, "bad_time", "event_time"),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD]
)
def test_a_bad_request_gets_a_typed_error_that_names_the_field(stack, body, status, code, field):
    answer = stack.ask("/calories/predict", body)
    assert (answer.status, answer.body["error"]["code"], answer.body["error"]["field"]) == (status, code, field)


@pytest.mark.parametrize(
    ("raw", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "bad_json"),
        (b'{"Age": NaN}', "application/json", 400, "bad_json"),
        (b"Age=3", "application/x-www-form-urlencoded", 415, "wrong_content_type"),
        (b" " * 10_000_000, "application/json", 413, "body_too_large"),
    ],
)
def test_a_bad_body_gets_a_typed_error(stack, raw, kind, status, code):
    answer = stack.ask("/calories/predict", raw=raw, kind=kind)
    assert (answer.status, answer.body["error"]["code"]) == (status, code)


def test_an_unknown_path_is_json_too(stack):
    assert stack.ask("/nothing/predict", {}).body["error"]["code"] == "not_found"


def test_one_bad_row_of_a_hundred_fails_alone(stack):
    rows = [stack.row(Duration=1 + number % 30) for number in range(100)]
    rows[41] = NO_AGE
    answer = stack.ask("/calories/predict/batch", {"rows": rows})
    assert answer.status == 200
    told = answer.body["predictions"]
    assert told[41]["error"] == {**told[41]["error"], "code": "missing_field", "field": "Age", "row": 41}
    assert sum("output" in each for each in told) == 99


def test_a_batch_over_the_limit_is_refused(stack):
    rows = [stack.row()] * 251
    answer = stack.ask("/calories/predict/batch", {"rows": rows})
    assert (answer.status, answer.body["error"]["code"]) == (413, "batch_too_large")


# --- the label clock ---------------------------------------------------------------------------------------


def counts(stack):
    labels = {each["model_version"]: each for each in stack.case()["labels"]}
    for each in labels.values():
        assert each["recorded"] == each["labelled"] + each["pending"] + each["expired"]
    return labels


def test_labels_meet_their_predictions_once_and_unknown_ones_are_kept(stack):
    wait_for(lambda: counts(stack).get("1"), "the first predictions in the log")
    before, orphans = counts(stack)["1"], stack.case()["orphan_labels"]
    answers = [stack.ask("/calories/predict", stack.row(Duration=number)) for number in range(5, 10)]
    labels = [{"prediction_id": each.body["prediction_id"], "actual": 100.0} for each in answers]
    labels += [labels[0], {"prediction_id": "nobody", "actual": 1.0}]
    assert stack.ask("/calories/labels", labels).status == 202
    assert stack.ask("/calories/labels", labels[0]).status == 202
    assert stack.ask("/calories/labels", {"User_ID": 123, "actual": 50.0}).status == 202
    wait_for(lambda: counts(stack)["1"]["labelled"] == before["labelled"] + 5, "five labelled predictions")
    wait_for(lambda: stack.case()["orphan_labels"] == orphans + 1, "the orphan label")
    assert stack.case()["keyed_labels"] >= 1
    expected = sum((each.body["output"]["calories"] - 100.0) ** 2 for each in answers)
    assert counts(stack)["1"]["loss_sum"] - before["loss_sum"] == pytest.approx(expected, rel=1e-6)


def test_an_answer_is_traced_to_its_label_its_training_and_the_rows_of_its_files(stack):
    name = next(stack.data.glob("exercise-0*.csv"))
    head, *lines = name.read_text().splitlines()
    row = dict(zip(head.split(","), lines[41].split(","), strict=True))
    numbers = {field: float(value) for field, value in row.items() if field not in {"User_ID", "Gender"}}
    asked = {**numbers, "Gender": row["Gender"], "User_ID": int(row["User_ID"]), "prediction_id": "traced"}
    answer = stack.ask("/calories/predict", asked)
    assert answer.status == 200, answer.body
    told = answer.body["prediction_id"]
    stack.ask("/calories/labels", {"prediction_id": told, "actual": 77.0})
    wait_for(lambda: logged(stack, [told]) == 1, "the record")
    wait_for(lambda: traced(stack, told)["prediction"]["label"], "its label")
    found = traced(stack, told, "--rescore")
    assert found["prediction"]["label"]["actual"] == pytest.approx(77.0)
    assert found["evidence"]["version"] == answer.body["model_version"]
    assert found["bento_agrees"] and found["snapshot_kept"] and found["rescored"]["same"]
    (file,) = [each for each in found["files"] if each["file"] == name.name]
    assert file["digest"] == hashlib.sha256(name.read_bytes()).hexdigest()
    (own,) = [each for each in found["rows"] if each["table"] == "exercise"]
    assert (own["file"], own["row"], own["in_snapshot"]) == (name.name, 42, True)
    assert traced(stack, "traced")["prediction"]["prediction_id"] == told
    listed = stack.run("trace", told, "--rows")
    assert f"{row['User_ID']},{name.name},{file['digest']},42,1," in listed
    assert "its own row" in stack.run("trace", told)


def test_an_id_that_the_log_does_not_hold_is_said(stack):
    assert "nobody: the log has no such prediction" in stack.run("trace", "nobody", code=1)


def traced(stack, name, *words):
    return json.loads(stack.run("trace", name, "--json", *words))


def test_a_bad_label_names_its_row_and_the_others_are_kept(stack):
    answer = stack.ask(
        "/calories/labels", [{"prediction_id": "x", "actual": 1}, {"prediction_id": "y", "actual": "z"}]
    )
    (error,) = answer.body["errors"]
    assert (answer.status, answer.body["accepted"], error["field"], error["row"]) == (202, 1, "actual", 1)


# --- doing it again ----------------------------------------------------------------------------------------


def test_the_same_drop_again_changes_nothing(stack):
    before = stack.case()["ledger"]
    stack.run("ingest")
    rest = of_home(stack.settings)
    run = rest.trigger("ingest_calories")
    wait_for(lambda: rest.state("ingest_calories", run) == "success", "the DAG's run", 300)
    assert stack.case()["ledger"] == before


def test_the_second_training_trains_nothing_and_names_the_first(stack):
    assert "nothing new: version 1 was promoted on" in stack.run("retrain")
    assert len(mlflow_of(stack).search_model_versions("name = 'calories'")) == 1


def test_the_real_merge_conflict_is_refused_by_airflow_and_published_rows_stay(stack):
    before = {ledger["table"]: ledger for ledger in stack.case()["ledger"]}
    for name in ("exercise", "calories"):
        shutil.copyfile(
            real_data("messy", "calories_merge_conflict", f"{name}.csv"), stack.data / f"{name}-conflict.csv"
        )
    rest = of_home(stack.settings)
    run = rest.trigger("ingest_calories")
    wait_for(lambda: rest.state("ingest_calories", run) == "success", "the DAG's run", 300)
    case = stack.case()
    assert balanced(case)
    for ledger in case["ledger"]:
        assert ledger["published"] == before[ledger["table"]]["published"]
        assert ledger["quarantined"] == before[ledger["table"]]["quarantined"] + 23991


# --- the registry is the wish ------------------------------------------------------------------------------


def test_a_better_model_takes_over_without_one_failed_request(stack):
    world.fill(stack.data, 1)
    with asking(stack.settings.ports.proxy, stack.row()) as client:
        stack.run("ingest")
        assert "version 2 passed gate and check" in stack.run("retrain")
        assert "full, by hand: sure of it" in stack.run("rollout", "promote", "calories", "--why", "sure of it")
        wait_for(lambda: client.versions["2"] > 50, "answers of version 2", 240)
    assert client.failed == []
    wait_for(
        lambda: mlflow_of(stack).get_model_version_by_alias("calories", "champion").version in {2, "2"},
        "the alias",
    )
    assert [each["role"] for each in stack.case()["places"]].count("previous") == 2, "the way back stays warm"


def test_the_champion_moved_by_hand_moves_what_serves_without_one_failed_request(stack):
    with asking(stack.settings.ports.proxy, stack.row()) as client:
        mlflow_of(stack).set_registered_model_alias("calories", "champion", "1")
        wait_for(lambda: stack.case()["champion"] == "1", "version 1 to serve", 240)
        wait_for(lambda: client.versions["1"] > 50, "answers of version 1", 60)
    assert client.failed == []
    assert stack.ask("/calories/predict", stack.row()).body["model_version"] == "1"


def test_the_champion_moved_to_an_unchecked_version_is_moved_back_and_said(stack):
    client = mlflow_of(stack)
    source = client.get_model_version("calories", "1")
    bare = client.create_model_version(
        "calories", source.source, run_id=source.run_id, model_id=source.source.removeprefix("models:/")
    )
    client.set_registered_model_alias("calories", "champion", bare.version)
    wait_for(
        lambda: event_told(stack, f"to version {bare.version}, which has not passed gate and check"), "the event"
    )
    wait_for(lambda: str(client.get_model_version_by_alias("calories", "champion").version) == "1", "the alias")
    assert stack.ask("/calories/predict", stack.row()).body["model_version"] == "1"


def test_the_champion_answers_raw_rows_in_a_notebook_as_the_endpoint_does(stack):
    mlflow.set_tracking_uri(stack.settings.mlflow)
    model = mlflow.pyfunc.load_model("models:/calories@champion")
    given = [stack.row(Duration=float(minutes)) for minutes in (3, 12, 29)]
    offline = model.predict(pd.DataFrame(given))["calories"].tolist()
    online = [
        each["output"]["calories"]
        for each in stack.ask("/calories/predict/batch", {"rows": given}).body["predictions"]
    ]
    assert online == pytest.approx(offline, rel=1e-4)
    with pytest.raises(mlflow.exceptions.MlflowException, match="Age"):
        model.predict(pd.DataFrame([NO_AGE]))


def test_the_run_in_mlflow_shows_parameters_metrics_plots_data_signature_and_verdict(stack):
    client = mlflow_of(stack)
    run = client.get_run(client.get_model_version("calories", "1").run_id)
    assert run.data.params["energy.max_depth"]
    assert run.data.metrics["rmse"] < 3
    assert run.data.tags["touchline.gate"] == "passed"
    assert run.inputs.dataset_inputs[0].dataset.name.startswith("snapshot-")
    plots = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "plots")}
    assert plots == {"plots/held_out_calories.png", "plots/importance_energy.png"}


# --- stop and start ----------------------------------------------------------------------------------------


def test_after_down_nothing_is_left_and_after_up_everything_is_as_it_was(stack):
    before = stack.case()
    versions = len(mlflow_of(stack).search_model_versions("name = 'calories'"))
    stack.run("down")
    assert world.free_ports(stack.base_port)
    assert processes_of(stack) == []
    told = stack.run("up", "--detach")
    assert "is not repeated" in told
    assert json.loads(answer_line(told))["model_version"] == before["champion"]
    after = stack.case()
    assert (after["champion"], after["ledger"]) == (before["champion"], before["ledger"])
    assert len(mlflow_of(stack).search_model_versions("name = 'calories'")) == versions


def answer_line(told):
    return next(line for line in told.splitlines() if line.startswith('{"prediction_id"'))


def processes_of(stack):
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(stack.home) in line]


def test_a_second_up_beside_a_running_one_says_that_it_runs(stack):
    assert "is running already" in stack.run("up", "--detach")


def test_real_rows_never_mix_with_simulated_ones(stack):
    kept = stack.environment.pop("TOUCHLINE_DATA")
    settings = stack.settings.at.settings
    text = settings.read_text()
    try:
        settings.write_text(text.replace(json.dumps(kept), "null"))
        assert "holds real rows; simulated ones would mix" in stack.run("ingest", code=1)
    finally:
        settings.write_text(text)
        stack.environment["TOUCHLINE_DATA"] = kept
