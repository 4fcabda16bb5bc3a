"""A use case from another installed package goes the whole way, and its bento needs that package no more."""

import json
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import catalog, flows
from pipelines.adapters.bento_builder import BentoBuilder
from pipelines.adapters.own_code import OwnCodeScorer
from pipelines.machine.services import tool
from pipelines.records import Wish
from tests.builders import LOCK, NOW, World, replace
from tests.places import starting

PACKAGE = Path(__file__).parents[1] / "packages" / "darts"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package's wheel, installed into a folder of its own."""
    site = tmp_path / "site"
    subprocess.run(
        [tool("uv"), "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--python", sys.executable,
         "--target", str(site), str(PACKAGE)],
        check=True,
    )  # fmt: skip
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(site))
        catalog.forget()
        yield site
    catalog.forget()
    for name in [name for name in sys.modules if name.startswith("touchline_darts")]:
        del sys.modules[name]


def throws(n=1500):
    random = np.random.default_rng(2)
    distance, tired = random.uniform(1.5, 3.5, n), random.random(n)
    off = np.abs(12 * distance + 30 * tired + random.normal(0, 6, n))
    return pl.DataFrame({"throw": np.arange(n), "distance": distance, "tired": tired, "off": off})


def test_an_installed_use_case_is_found_trained_built_and_served_without_its_package(installed, tmp_path):
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world", "darts")
    builder = BentoBuilder(tmp_path / "bentoml", tmp_path / "places", LOCK)
    world.tools = replace(world.tools, builder=builder, scorer=OwnCodeScorer())
    throws().with_columns(off=pl.when(pl.col("throw") == 3).then(900.0).otherwise("off")).write_csv(
        world.drop / "throws.csv"
    )
    ledger = world.ingest()["throws"]
    assert (ledger.published, ledger.quarantined) == (1499, 1)
    assert flows.retraining(world.do, Wish(), NOW).asked_now
    (evidence,) = world.tools.evidence.book.values()
    bento = tmp_path / "bentoml" / "bentos" / evidence.bento_tag.replace(":", "/")
    (wheel,) = (bento / "src" / "wheels").glob("touchline_use_case_darts*.whl")
    assert {"touchline_darts/board.py", "touchline_darts/darts.py"} <= set(zipfile.ZipFile(wheel).namelist())
    with starting(bento, tmp_path) as start:
        place = start("a")
        body = json.dumps({"distance": 2.37, "tired": 0.2}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{place.port}/predict", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            told = json.load(answer)
    assert told["output"]["off"] == pytest.approx(34.4, abs=8)
    assert str(installed) not in (bento / "bento.yaml").read_text()
