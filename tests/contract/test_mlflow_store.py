"""MLflow as tracker and registry: the real server on the real PostgreSQL, and the shipped fake."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from pipelines import catalog, provenance
from pipelines.adapters.mlflow_store import MlflowStore
from pipelines.adapters.own_code import OwnCodeScorer
from pipelines.errors import BadRelease, ServiceAway
from pipelines.fakes import MemoryRegistry, MemoryTracker
from pipelines.tools import RunRecord
from tests.conftest import free_port, wait_for
from tests.places import answers
from tests.releases import make_release

USE_CASE = catalog.load("calories")


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": postgres.url("mlflow").replace("postgresql:", "postgresql+psycopg2:"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    words = [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", "1", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{url}/health"), f"MLflow, see {folder}/log", 240)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)


@pytest.fixture(scope="module")
def run_record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_release(folder / "release", trees=5)
    provenance.copy_code(catalog.locate("calories"), folder / "code")
    (folder / "plots").mkdir()
    (folder / "tables").mkdir()
    (folder / "tables" / "slices.csv").write_text("slice,rows\nall,1\n")
    (folder / "plots" / "held_out_calories.png").write_bytes(b"\x89PNG")
    return RunRecord(
        training_key="key", folder=folder, parameters={"depth": "3"}, metrics={"rmse": 2.0},
        facts={"touchline.snapshot": "abc"}, data="abc", data_uri="file:///tables@1",
    )  # fmt: skip


@pytest.fixture(scope="module", params=["mlflow", "memory"])
def store(request, tmp_path_factory):
    if request.param == "memory":
        return SimpleNamespace(tracker=MemoryTracker(tmp_path_factory.mktemp("runs")), registry=MemoryRegistry())
    real = MlflowStore(request.getfixturevalue("server"), tmp_path_factory.mktemp("cache"))
    return SimpleNamespace(tracker=real, registry=real)


@pytest.fixture(scope="module")
def run(store, run_record):
    assert store.tracker.find("calories", "key") is None
    return store.tracker.log(USE_CASE, run_record)


def test_a_finished_run_is_found_by_its_key(store, run):
    assert store.tracker.find("calories", "key") == run
    assert store.tracker.find("calories", "another") is None


def test_its_folder_holds_release_and_code_as_they_were_logged(store, run, run_record):
    for _ in range(2):
        folder = store.tracker.folder(run)
        for name in ("release/release.json", "release/energy.onnx", "code/pipelines/use_cases/calories.py"):
            assert (folder / name).read_bytes() == (run_record.folder / name).read_bytes()


def test_a_run_becomes_one_version_however_often_it_is_registered(store, run):
    assert [store.registry.register(USE_CASE, run, {"fact": "x"}) for _ in range(2)] == ["1", "1"]
    assert store.registry.run_of("calories", "1") == run


@pytest.mark.parametrize("version", ["99", "newest"])
def test_a_version_that_is_not_there_is_a_final_error_in_words(store, run, version):
    store.registry.register(USE_CASE, run, {})
    with pytest.raises(BadRelease, match=f"calories has no version {version}"):
        store.registry.run_of("calories", version)


def test_a_logged_run_says_nothing_on_standard_output(store, run_record, capfd):
    store.tracker.log(USE_CASE, run_record.model_copy(update={"training_key": "a second one"}))
    assert capfd.readouterr().out == ""


def test_an_alias_is_moved_and_taken_away(store, run):
    store.registry.register(USE_CASE, run, {})
    assert store.registry.aliases("unknown") == {}
    store.registry.point("calories", "champion", "1")
    assert store.registry.aliases("calories") == {"champion": "1"}
    store.registry.point("calories", "champion", None)
    assert store.registry.aliases("calories") == {}


def test_a_run_that_a_killed_training_left_is_no_run_and_the_next_one_ends_it(server, run_record, tmp_path):
    store = MlflowStore(server, tmp_path / "cache")
    experiment = store.client.create_experiment("half")
    half = store.client.create_run(experiment, tags={"touchline.training_key": "key"})
    assert store.find("half", "key") is None
    other = USE_CASE.model_copy(update={"name": "half"})
    made = store.log(other, run_record)
    assert store.find("half", "key") == made
    assert store.client.get_run(half.info.run_id).info.status == "KILLED"


def test_the_page_of_a_run_is_told_what_gate_and_check_said(server, run_record, tmp_path):
    store = MlflowStore(server, tmp_path / "cache")
    run = store.log(USE_CASE.model_copy(update={"name": "noted"}), run_record)
    store.note(run, {"touchline.gate": "passed", "touchline.gate_reason": "rmse 2, floor 3"})
    tags = store.client.get_run(run).data.tags
    assert tags["mlflow.note.content"] == "- **gate**: passed\n- **gate_reason**: rmse 2, floor 3"


def test_a_tracked_model_answers_in_the_code_that_it_carries_not_in_the_working_tree_s(run_record, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(run_record.folder, model)
    columns = {"Gender": ["male"], "Age": [30.0], "Height": [180.0], "Weight": [80.0]}
    columns |= {"Duration": [10.0], "Heart_Rate": [100.0], "Body_Temp": [39.0]}
    import numpy as np

    given = {name: np.array(cells, object if name == "Gender" else float) for name, cells in columns.items()}
    own = OwnCodeScorer()
    before = own.offline(model, given)["calories"]
    assert own.score(model, given)["calories"] == pytest.approx(before, rel=1e-4)
    use_case = model / "code" / "pipelines" / "use_cases" / "calories.py"
    use_case.write_text(use_case.read_text().replace('np.maximum(raw["energy"], 0.0)', 'raw["energy"] + 1000'))
    assert own.offline(model, given)["calories"] == pytest.approx(before + 1000)


def test_a_signature_and_no_pickle_are_logged(server, run_record, tmp_path):
    store = MlflowStore(server, tmp_path / "cache")
    run = store.log(USE_CASE.model_copy(update={"name": "plain"}), run_record)
    mlflow.set_tracking_uri(server)
    model = store.client.get_run(run).outputs.model_outputs[0].model_id
    kept = Path(mlflow.artifacts.download_artifacts(f"models:/{model}", dst_path=str(tmp_path)))
    assert "Gender" in (kept / "MLmodel").read_text()
    assert not [file for file in kept.rglob("*") if file.suffix in {".pkl", ".pickle", ".joblib"}]


def test_a_server_that_is_away_is_a_passing_error(tmp_path):
    with pytest.raises(ServiceAway, match="MLflow does not answer"):
        MlflowStore(f"http://127.0.0.1:{free_port()}", tmp_path).aliases("calories")
