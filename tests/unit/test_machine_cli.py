"""The command line's promises: two lines for an error, and the exit code that tells whether to repeat."""

import argparse
import errno
import json

import pytest

from pipelines import cli
from pipelines.errors import Busy, CannotStart, TouchlineError
from pipelines.machine import up
from pipelines.settings import Home


@pytest.mark.parametrize(("error", "code"), [(CannotStart("no room: make some"), 1), (Busy("at work"), 75)])
def test_an_error_is_two_lines_and_its_class_decides_the_exit_code(
    error: TouchlineError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.tell("up", error) == code
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert str(error) in told[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (OSError("Generic error: No space left on device (os error 28)"), 75),
        (PermissionError(errno.EACCES, "Permission denied"), 1),
    ],
)
def test_a_full_disk_asks_for_a_repeat_and_no_other_refusal_does(error: OSError, code: int) -> None:
    assert cli.tell("ingest", cli.refusal(error)) == code


def test_status_of_a_home_that_does_not_run_is_json(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--json", "--home", str(home.root)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["running"], told["services"], told["home"]) == (False, [], str(home.root))


def test_down_on_nothing_is_fine_and_a_purge_takes_only_a_home(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.root / "letter.txt").write_text("dear")
    assert cli.main(["down", "--home", str(home.root)]) == 0
    assert cli.main(["down", "--purge", "--home", str(home.root)]) == 1
    assert (home.root / "letter.txt").exists()
    assert "no home of Touchline" in capsys.readouterr().err


def test_a_start_in_a_foreign_folder_is_refused_and_changes_nothing(home: Home) -> None:
    (home.root / "letter.txt").write_text("dear")
    assert cli.main(["up", "--detach", "--home", str(home.root)]) == 1
    assert [file.name for file in home.root.iterdir()] == ["letter.txt"]


def leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Every command, those within a command too."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [leaf for group in groups for one in group.choices.values() for leaf in leaves(one)] or [parser]


def test_every_command_helps_and_knows_home_debug_and_json() -> None:
    commands = leaves(cli.parser())
    assert len(commands) > 15
    for one in commands:
        for option in ("--home", "--debug", "--json"):
            assert option in one.format_help(), one.prog


def test_the_main_job_is_done_once_its_mark_is_there(home: Home) -> None:
    from pipelines import settings as settings_of

    settings = settings_of.load(home=home.root)
    assert not up.main_job_done(settings)
    (home.root / f"{up.DONE}-{settings.use_case}").touch()
    assert up.main_job_done(settings)


@pytest.mark.parametrize(
    "command", ["ingest", "train", "gate", "build", "retrain", "backtest", "quality", "validate"]
)
def test_a_command_on_a_home_that_was_never_set_up_says_so_in_two_lines(
    command: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--home", str(home.root / "none")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "not set up yet: run `touchline up`" in told[0]


def test_what_the_operating_system_refuses_is_two_lines_too(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home.root / "file"
    file.touch()
    assert cli.main(["up", "--detach", "--home", str(file)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
