"""`python -m tests`: what either run of pytest says, or that it died, is not lost behind the other."""

import pytest

from tests import __main__ as both

FILES = {
    "passes": "pass",
    "fails": "assert False",
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize(
    ("one", "other", "well"), [("passes", "passes", True), ("passes", "fails", False), ("dies", "passes", False)]
)
def test_all_is_well_only_when_both_runs_are(one, other, well, tmp_path, monkeypatch, capsys):
    runs = []
    for place, name in enumerate((one, other)):
        file = tmp_path / f"test_{place}_{name}.py"
        file.write_text(f"def test_it():\n    {FILES[name]}\n")
        runs.append([str(file), "--confcutdir", str(tmp_path)])
    monkeypatch.setattr(both, "RUNS", runs)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    assert (both.main(["-p", "no:cacheprovider"]) == 0) == well
    assert ("1 failed" in capsys.readouterr().out) == (other == "fails")
