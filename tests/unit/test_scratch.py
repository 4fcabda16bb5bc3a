import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipelines.scratch import scratch

HOLDS = """
import sys, tempfile
from pipelines.scratch import scratch
tempfile.tempdir = sys.argv[1]
with scratch("work") as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "rows").write_text("many")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(temporary):
    """Another process that is using one."""
    words = [sys.executable, "-c", HOLDS, str(temporary)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.folder = Path(process.stdout.readline().strip())
        yield process
        process.kill()


def test_it_is_gone_afterwards_also_after_an_error(temporary):
    with pytest.raises(ZeroDivisionError), scratch("work") as folder:
        (folder / "file").write_text("x")
        assert folder.parent == temporary
        raise ZeroDivisionError
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_one(temporary, holder):
    holder.kill()
    holder.wait(30)
    assert (holder.folder / "deep" / "rows").exists()
    with scratch("work") as folder:
        assert sorted(temporary.iterdir()) == [folder, folder.with_name(f"{folder.name}.lock")]
    assert not list(temporary.iterdir())


def test_a_folder_in_use_stays_and_so_does_one_of_another_name(temporary, holder):
    with scratch("work") as folder, scratch("other") as other:
        assert len({folder, other, holder.folder}) == 3
        assert (holder.folder / "deep" / "rows").exists()
