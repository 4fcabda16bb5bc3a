"""What is refused before anything starts, and with which advice."""

import shutil
import socket
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines import settings as settings_of
from pipelines.errors import CannotStart
from pipelines.machine import preflight
from pipelines.settings import Home, Settings


@pytest.fixture
def settings(home: Home) -> Settings:
    return settings_of.load(home=home.root)


def test_an_unsupported_python_is_named() -> None:
    with pytest.raises(CannotStart, match=r"Python 3\.13 .* install Python 3\.11 or 3\.12"):
        preflight.python((3, 13))


def test_a_taken_port_is_named_with_the_setting_that_moves_it(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = settings_of.load(home=home.root, base_port=port - 1)
        with pytest.raises(CannotStart, match=rf"port {port} \(airflow\) .* TOUCHLINE_BASE_PORT"):
            preflight.ports(settings)


def test_a_newer_home_is_refused(home: Home) -> None:
    home.version.write_text(f"{preflight.LAYOUT + 1}\n")
    with pytest.raises(CannotStart, match="newer Touchline"):
        preflight.home(home)


def test_a_home_of_this_layout_and_an_empty_or_missing_one_are_fine(home: Home) -> None:
    preflight.home(home)
    preflight.home(Home(home.root / "missing"))
    home.version.write_text(f"{preflight.LAYOUT}\n")
    preflight.home(home)


def test_a_folder_with_other_peoples_files_is_no_home(home: Home) -> None:
    (home.root / "letter.txt").write_text("dear")
    with pytest.raises(CannotStart, match="no home of Touchline"):
        preflight.home(home)


def test_a_home_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(CannotStart, match="shorter TOUCHLINE_HOME"):
        preflight.home(Home(Path("/" + "deep/" * 20)))


def test_too_little_disk_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(preflight.FREE_BYTES - 1))
    with pytest.raises(CannotStart, match="make room"):
        preflight.room(settings.at)


def test_a_user_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
    with pytest.raises(CannotStart, match="user id 4000000"):
        preflight.account()
