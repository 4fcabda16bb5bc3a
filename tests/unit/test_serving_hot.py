import asyncio
import json
import shutil

import httpx
import pytest

from pipelines.errors import BadRelease, CheckFailed
from pipelines.predictions import spool
from pipelines.predictions.spool import FolderSpool, Header, Labels, NoSpool
from pipelines.records import Stamp
from pipelines.serving import predictor
from pipelines.serving.contract import Code
from pipelines.serving.hot import METHODS, PROBES, Answers, Hot, Identity
from pipelines.use_cases.calories import USE_CASE
from tests.releases import ROW, make_release

STAMP = Stamp(
    use_case="calories",
    model_version="3",
    bento_tag="calories:v3",
    release_digest="r",
    code_digest="c",
    lock_digest="l",
)


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("release") / "release")


@pytest.fixture(scope="session")
def opened(release):
    return predictor.load(release, USE_CASE)


def client_of(opened, log) -> httpx.AsyncClient:
    async def behind(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"behind"})

    app = Hot(behind, Answers(USE_CASE, opened, log, Identity("a", STAMP, "digest")))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://place")


@pytest.fixture
def log(opened, tmp_path):
    return FolderSpool(
        tmp_path, Header("calories", "a", "3", "digest", opened.contract.inputs, opened.output_names)
    )


def ask(client, path, body=None, method="POST", **given):
    async def call():
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | given.pop("headers", {})
        return await client.request(method, path, content=content, headers=headers, **given)

    return asyncio.run(call())


def records(folder):
    return list(spool.read_all(folder))


def test_an_answer_is_recorded_before_it_leaves(opened, log, tmp_path):
    got = ask(client_of(opened, log), "/predict", ROW | {"User_ID": 5}, headers={"x-request-id": "req"})
    assert got.status_code == 200
    assert got.headers["x-model-version"] == "3"
    assert got.json()["prediction_id"] == "req-0"
    (record,) = records(tmp_path)
    assert (record.request_id, record.rows, record.keys) == ("req", [0], ["5"])
    assert record.outputs == [[got.json()["output"]["calories"]]]


def test_a_batch_keeps_its_order_and_its_bad_rows(opened, log, tmp_path):
    got = ask(client_of(opened, log), "/predict/batch", {"rows": [ROW, {}, ROW | {"Age": 100}]})
    first, second, third = got.json()["predictions"]
    assert first["prediction_id"].endswith("-0") and third["prediction_id"].endswith("-2")
    assert second["error"]["row"] == 1
    assert [warning["field"] for warning in third["warnings"]] == ["Age"]
    (record,) = records(tmp_path)
    assert record.rows == [0, 2]


def test_labels_are_kept(opened, log, tmp_path):
    got = ask(client_of(opened, log), "/labels", [{"prediction_id": "p", "actual": 2}, {}])
    assert got.status_code == 202
    assert got.json()["accepted"] == 1 and got.json()["errors"][0]["row"] == 1
    (record,) = records(tmp_path)
    assert isinstance(record, Labels) and record.rows[0][:4] == ("p", None, None, 2.0)


def test_without_a_log_nothing_is_answered(opened, tmp_path):
    full = FolderSpool(tmp_path, Header("calories", "a", "3", "d", (), ()), total=10)
    got = ask(client_of(opened, full), "/predict", ROW)
    assert (got.status_code, got.json()["error"]["code"]) == (503, Code.LOG_FULL.word)
    assert int(got.headers["retry-after"]) > 0


def test_a_row_without_a_finite_answer_is_refused_alone(opened, log, tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "answer", lambda columns: {"calories": columns["Age"] + columns["Height"] * 0})
    assert ask(client_of(opened, log), "/predict", ROW).json()["output"] == {"calories": 68.0}
    monkeypatch.setattr(
        opened,
        "answer",
        lambda columns: {"calories": columns["Age"] * [float("nan") if age > 70 else 1 for age in columns["Age"]]},
    )
    got = ask(client_of(opened, log), "/predict/batch", {"rows": [ROW | {"Age": 71}, ROW]})
    refused, answered = got.json()["predictions"]
    assert (refused["error"]["code"], answered["output"]) == (Code.NO_ANSWER.word, {"calories": 68.0})
    assert records(tmp_path)[-1].rows == [1]
    assert ask(client_of(opened, log), "/predict", ROW | {"Age": 71}).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "given", "code"),
    [
        ("GET", "/predict", {}, Code.METHOD_NOT_ALLOWED),
        ("POST", "/readyz", {}, Code.METHOD_NOT_ALLOWED),
        ("POST", "/nothing", {}, Code.NOT_FOUND),
        ("POST", "/predict", {"headers": {"content-type": "text/csv"}}, Code.WRONG_CONTENT_TYPE),
        ("POST", "/predict", {"headers": {"content-encoding": "gzip"}}, Code.WRONG_CONTENT_TYPE),
        ("POST", "/predict", {"body": b" " * 300_000}, Code.BODY_TOO_LARGE),
        ("POST", "/predict", {"body": b"{"}, Code.BAD_JSON),
    ],
)
def test_every_refusal_is_typed(opened, method, path, given, code):
    body = given.pop("body", b"{}")
    got = ask(client_of(opened, NoSpool()), path, body, method, **given)
    assert (got.status_code, got.json()["error"]["code"]) == (code.status, code.word)
    assert set(got.json()["error"]) == {"code", "message", "field", "row"}


@pytest.mark.parametrize("path", sorted(PROBES))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_probe_is_answered_without_the_service_behind(opened, path, method):
    got = ask(client_of(opened, NoSpool()), path, method=method)
    assert (got.status_code, got.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert got.text == ("\n" if method == "GET" else "")


def test_what_bentoml_s_clients_ask_for_goes_to_the_service_behind(opened):
    assert ask(client_of(opened, NoSpool()), "/schema.json", method="GET").text == "behind"


def test_the_model_says_what_it_takes_and_whether_it_is_logged(opened):
    told = ask(client_of(opened, NoSpool()), "/model", method="GET").json()
    assert told["version"] == "3" and told["logged"] is False
    assert [feature["name"] for feature in told["features"]] == list(ROW)
    assert set(told["features"][1]) >= {"name", "type", "unit", "range", "example"}


def test_every_route_and_every_error_code_is_documented(opened):
    documented = ask(client_of(opened, NoSpool()), "/docs.json", method="GET").json()
    assert set(METHODS) - {"/docs.json"} == set(documented["paths"])
    responses = documented["paths"]["/predict"]["post"]["responses"]
    for code in Code:
        assert code.word in responses[str(code.status)]["description"]


def test_a_release_that_answers_otherwise_is_refused(release, tmp_path):
    other = shutil.copytree(release, tmp_path / "other")
    golden = json.loads((other / "golden.json").read_text())
    golden["outputs"][3]["calories"] *= 1.01
    (other / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(CheckFailed, match="calories"):
        predictor.load(other, USE_CASE)
    with pytest.raises(BadRelease, match="digest"):
        predictor.load(other, USE_CASE, "0" * 64)


def test_a_place_counts_what_it_answered(opened):
    client = client_of(opened, NoSpool())
    ask(client, "/predict", ROW)
    ask(client, "/predict", b"{")
    told = ask(client, "/metrics", method="GET").text
    names = 'model_version="3",route="/predict"'
    assert f'touchline_requests_total{{{names},status="200",use_case="calories"}} 1.0' in told
    assert f'touchline_requests_total{{{names},status="400",use_case="calories"}} 1.0' in told
    assert f'touchline_request_seconds_count{{{names},use_case="calories"}} 2.0' in told
    assert 'touchline_rows_total{model_version="3",use_case="calories"} 1.0' in told
    assert told.endswith("behind")
