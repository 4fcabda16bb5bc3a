import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

import pipelines
from pipelines import catalog, provenance
from pipelines.errors import CheckFailed
from pipelines.serving import place
from tests.places import answers, make_bento, starting
from tests.releases import ROW, make_release


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("release") / "release", trees=5)


@pytest.fixture(scope="module")
def built(release, tmp_path_factory):
    return make_bento(release, "7", tmp_path_factory.mktemp("store") / ".hidden" / "bentoml")


def test_the_same_inputs_give_the_bento_that_is_there(release, built):
    assert make_bento(release, "7", built.path.parents[2]) == built
    assert built.tag == f"calories:v7-{built.stamp.release_digest[:12]}"
    assert built.stamp.code_digest == provenance.code_digest(catalog.locate("calories"))


@pytest.mark.parametrize("harm", ["src/release/energy.onnx", "bento.yaml"])
def test_a_damaged_or_half_made_bento_is_built_again(release, built, tmp_path, harm):
    store = shutil.copytree(built.path.parents[2], tmp_path / "store")
    broken = store / built.path.relative_to(built.path.parents[2])
    (broken / harm).write_bytes(b"")
    again = make_bento(release, "7", store)
    assert (again.path, again.digest) == (broken, built.digest)


def test_a_release_that_does_not_answer_like_its_model_is_never_built(release, tmp_path):
    wrong = shutil.copytree(release, tmp_path / "wrong")
    golden = json.loads((wrong / "golden.json").read_text())
    golden["outputs"][0]["calories"] += 5
    (wrong / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(CheckFailed, match="golden"):
        make_bento(wrong, "7", tmp_path / "store")
    assert not list((tmp_path / "store").rglob("stamp.json"))


def test_a_place_runs_the_bentos_code_and_none_of_the_working_tree(built, tmp_path):
    code = place.unpack(built.path, tmp_path / "places")
    assert place.unpack(built.path, tmp_path / "places") == code
    words, environment = place.command(built.path, 1, "a", tmp_path / "spool", code)
    environment["PYTHONPATH"] = str(Path(pipelines.__file__).parents[1])
    told = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "not from the bento's own code" in told.stderr


def test_what_a_killed_place_leaves_lies_in_its_own_folder(built, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    with starting(built.path, tmp_path) as start:
        place = start("a")
        assert answers(f"http://127.0.0.1:{place.port}/schema.json", 60), "BentoML's service, which makes a folder"
        place.kill()
    assert list(tmp_path.rglob("bentoml-client-*"))
    assert not list(elsewhere.iterdir())


def test_a_use_case_from_a_folder_travels_inside_its_bento(release, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    shipped = Path(pipelines.__file__).parent / "use_cases" / "calories.py"
    (folder / "energy.py").write_text(shipped.read_text().replace('name="calories"', 'name="energy"', 1))
    found = catalog.locate("energy", (folder,))
    own = shutil.copytree(release, tmp_path / "release")
    manifest = json.loads((own / "release.json").read_text()) | {"use_case": "energy", "module": found.module}
    (own / "release.json").write_text(json.dumps(manifest))
    made = make_bento(own, "1", tmp_path / "store", found)
    shutil.rmtree(folder)
    with starting(made.path, tmp_path) as start:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{start('a').port}/predict",
            json.dumps(ROW).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(asked) as got:
            assert got.headers["x-model-version"] == "1"
            assert json.load(got)["output"]["calories"] > 0
