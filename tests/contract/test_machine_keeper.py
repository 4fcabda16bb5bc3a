"""The keeper against real process trees."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.machine import keeper
from tests.conftest import free_port, wait_for

KEEPER = (sys.executable, "-m", "pipelines.machine.keeper")

pytestmark = pytest.mark.skipif(not keeper.LINUX, reason="elsewhere the keeper only passes signals on")

TREE = """
import os, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, {main})
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
def orphan(own_session):
    if os.fork() == 0:
        if own_session: os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", sleeper])
        os._exit(0)
orphan(False); orphan(True); os.wait(); os.wait()
subprocess.Popen([sys.executable, "-c", sleeper], process_group=0)
Path(sys.argv[1]).touch()
time.sleep(600)
"""
"""A service with two orphans, one in a session of its own, and a child in its own group; all ignore TERM."""
POLITE, DEAF = "lambda *_: sys.exit(3)", "signal.SIG_IGN"


class Kept:
    """One keeper and what runs below it."""

    def __init__(self, folder: Path, main: str = POLITE, launcher: tuple[str, ...] = ()) -> None:
        self.note, self.up = folder / "service.note", folder / "up"
        script = folder / "tree.py"
        script.write_text(TREE.format(main=main))
        self.up.unlink(missing_ok=True)
        self.process = subprocess.Popen([
            *launcher, *KEEPER, "service", "--note", str(self.note),
            "--grace", "1", "--", sys.executable, str(script), str(self.up),
        ])  # fmt: skip
        wait_for(self.up.exists, "the tree to stand")
        wait_for(lambda: len(self.tree()) >= 5, "the note of the keeper and its four")

    def tree(self) -> list[keeper.Seen]:
        return keeper.noted(self.note)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    one = Kept(tmp_path)
    yield one
    one.process.kill()
    one.process.wait()
    keeper.sweep(one.note, signal.SIGKILL, 5)


def gone(tree: list[keeper.Seen]) -> bool:
    return all((again := keeper.seen(one.pid)) is None or again.started != one.started for one in tree)


def test_after_a_stop_nothing_is_left_and_the_code_is_the_services(kept: Kept) -> None:
    tree = kept.tree()
    kept.process.terminate()
    assert kept.process.wait(60) == 3
    assert gone(tree)
    assert not kept.note.exists()


def test_a_service_that_ignores_its_signal_is_killed_after_the_grace(tmp_path: Path) -> None:
    kept = Kept(tmp_path, DEAF)
    tree = kept.tree()
    kept.process.terminate()
    assert kept.process.wait(60) == 128 + signal.SIGKILL
    assert gone(tree)


def test_when_the_service_is_killed_its_tree_goes_too(kept: Kept) -> None:
    tree = kept.tree()
    service = next(one for one in tree if one.parent == kept.process.pid and one.session == one.pid)
    os.kill(service.pid, signal.SIGKILL)
    assert kept.process.wait(60) == 128 + signal.SIGKILL
    assert gone(tree)


def test_when_the_keeper_is_killed_the_next_one_sweeps_what_it_left(kept: Kept, tmp_path: Path) -> None:
    tree = kept.tree()
    kept.process.kill()
    kept.process.wait()
    assert not gone(tree)
    again = Kept(tmp_path)
    assert gone(tree)
    again.process.terminate()
    again.process.wait(60)


def test_when_its_parent_is_killed_the_keeper_ends_everything(tmp_path: Path) -> None:
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    kept = Kept(tmp_path, launcher=(sys.executable, "-c", parent))
    tree = kept.tree()
    kept.process.kill()
    kept.process.wait()
    wait_for(lambda: gone(tree), "the keeper to end its tree")


def test_a_keeper_that_still_waits_dies_with_its_parent(tmp_path: Path) -> None:
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    note = tmp_path / "note"
    waiting = subprocess.Popen([
        sys.executable, "-c", parent, *KEEPER, "x", "--note", str(note),
        "--after", f"tcp:{free_port()}", "--", "sleep", "600",
    ])  # fmt: skip
    wait_for(lambda: keeper.noted(note), "the keeper to wait")
    tree = keeper.noted(note)
    waiting.kill()
    waiting.wait()
    wait_for(lambda: gone(tree), "the waiting keeper to go")


def test_variables_come_from_a_file_and_not_from_the_command_line(tmp_path: Path) -> None:
    variables = tmp_path / "variables.json"
    variables.write_text('{"SECRET": "not to be shown"}')
    told = subprocess.run(
        [
            *KEEPER,
            "x",
            "--note",
            tmp_path / "note",
            "--environment",
            variables,
            "--",
            "sh",
            "-c",
            "echo $SECRET",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "not to be shown\n"


def test_a_note_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    note, mine = tmp_path / "one.note", keeper.everyone()[:1]
    assert keeper.take_note(note, 1, mine)
    before = note.read_text()
    (tmp_path / "one.partial").mkdir()
    assert not keeper.take_note(note, 2, [])
    assert note.read_text() == before
