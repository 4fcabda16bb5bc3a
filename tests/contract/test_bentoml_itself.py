"""Our bentos for anyone who knows BentoML: served by its own command, exported, imported elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import bentoml
import pytest
from bentoml.exceptions import UnprocessableEntity

from pipelines.machine.services import QUIET, tool
from pipelines.serving import place
from tests.conftest import free_port, wait_for
from tests.places import answers, make_bento, starting
from tests.releases import ROW, make_release


def command(home, *words):
    """BentoML's own command, in a folder where no working tree is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOUCHLINE", "PYTHON"))}
    beside = os.pathsep.join((str(Path(sys.executable).parent), kept["PATH"]))
    return {
        "args": [tool("bentoml"), *words],
        "env": {**kept, **QUIET, "PATH": beside, "BENTOML_HOME": str(home)},
        "cwd": home,
    }


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """A bento, exported from the home that built it and imported into another; (home, tag)."""
    root = tmp_path_factory.mktemp("bentos")
    built = make_bento(make_release(root / "release"), "4", root / "built")
    there = root / "there"
    there.mkdir()
    subprocess.run(
        **command(root / "built", "export", built.tag, str(root / "carried.bento")),
        check=True,
        capture_output=True,
    )
    shutil.rmtree(root / "built")
    subprocess.run(**command(there, "import", str(root / "carried.bento")), check=True, capture_output=True)
    return there, built.tag


@pytest.fixture(scope="module")
def served(carried):
    home, tag = carried
    port = free_port()
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            **command(home, "serve", tag, "--host", "127.0.0.1", "--port", str(port)), stdout=log, stderr=log
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), f"bentoml serve: {home / 'log'}", 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused), refused.headers


def test_bentoml_serve_answers_the_same_contract(served):
    status, told, headers = ask(f"{served}/predict", ROW)
    assert (status, told["model_version"], headers["x-model-version"]) == (200, "4", "4")
    assert told["output"]["calories"] == pytest.approx(231, rel=0.5)
    status, told, _ = ask(f"{served}/predict/batch", {"rows": [ROW, {**ROW, "Age": "old"}]})
    assert status == 200
    assert told["predictions"][1]["error"]["code"] == "wrong_type"
    assert ask(f"{served}/predict", {**ROW, "Age": 3})[1]["error"]["code"] == "out_of_bounds"
    assert ask(f"{served}/labels", {"prediction_id": "x", "actual": 2.0})[0] == 202
    assert ask(f"{served}/docs.json")[1]["openapi"]


def test_it_says_that_nobody_keeps_a_log_and_shows_the_evidence_that_it_carries(served):
    _, told, _ = ask(f"{served}/model")
    assert told["logged"] is False
    assert told["evidence"] == {"training_key": "test-4"}


@pytest.fixture(scope="module", params=["place", "bentoml serve"])
def endpoint(request, carried):
    """The address of the same bento, served either way."""
    if request.param == "bentoml serve":
        yield request.getfixturevalue("served")
        return
    home, tag = carried
    with starting(bento_of(home, tag), home / "run") as start:
        yield f"http://127.0.0.1:{start('a').port}"


def bento_of(home, tag):
    return home / "bentos" / tag.replace(":", "/")


def test_bentoml_s_own_client_asks_by_name_and_gets_typed_errors(endpoint):
    with bentoml.SyncHTTPClient(endpoint, server_ready_timeout=60) as client:
        assert sorted(client.endpoints) == ["labels", "predict", "predict_batch"]
        assert client.predict(**ROW)["output"]["calories"] == pytest.approx(231, rel=0.5)
        good, bad = client.predict_batch(rows=[ROW, {**ROW, "Age": "old"}])["predictions"]
        assert (good["model_version"], bad["error"]["code"]) == ("4", "wrong_type")
        assert client.labels(labels=[{"prediction_id": "x", "actual": 2.0}])["accepted"] == 1
        with pytest.raises(UnprocessableEntity, match="out_of_bounds"):
            client.predict(**{**ROW, "Age": 3})


def test_a_place_starts_without_bentoml_and_loads_it_for_who_asks(carried):
    home, tag = carried
    source = bento_of(home, tag) / "src"
    loaded = (
        "import touchline_app as app, sys; told = [m for m in sys.modules if 'bentoml' in m]; app._service(); "
    )
    loaded += "print(told, 'bentoml' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(source)!r}); {loaded}"],
        env=place.environment(place.unpack(bento_of(home, tag), home / "code")) | {"BENTOML_HOME": str(home)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "[] True\n"
