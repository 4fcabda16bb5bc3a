"""The decoder of the hot path under a coverage-guided fuzzer, for a moment; `make fuzz` goes on longer."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.releases import ROW

RUNS = 20_000


@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris has no wheel for this machine")
def test_no_bytes_break_the_decoder(tmp_path):
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    bodies = [
        ROW,
        {"rows": [ROW, {}]},
        {"labels": [{"prediction_id": "x", "actual": 1}]},
        {"actual": 1, "User_ID": 5},
    ]
    for place, body in enumerate(bodies):
        (seeds / str(place)).write_bytes(b"\0" + json.dumps(body).encode())
    words = [sys.executable, "-m", "tests.fuzz", str(seeds), f"-runs={RUNS}", "-seed=1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS} runs" in done.stderr
