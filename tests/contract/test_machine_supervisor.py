"""A real supervisord with small services."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import ServiceAway
from pipelines.machine import keeper
from pipelines.machine.services import Service
from pipelines.machine.supervisor import Process, Supervisor
from pipelines.settings import Home
from tests.chaos.disk import filled, small_disk
from tests.conftest import free_port, wait_for

SLEEP = "import os, sys, time; print('word', os.environ.get('WORD'), flush=True); time.sleep(600)"


def service(name: str, **more: object) -> Service:
    return Service(name, (sys.executable, "-c", SLEEP), **more)  # type: ignore[arg-type]


@pytest.fixture
def supervisor(home: Home) -> Iterator[Supervisor]:
    one = Supervisor(home)
    one.start((service("first"),))
    yield one
    one.stop()
    assert not one.is_running()
    assert one.leftovers() == []


def named(supervisor: Supervisor, name: str) -> Process | None:
    return next((one for one in supervisor.status() if one.name == name), None)


def word(home: Home, name: str) -> str:
    log = home.logs / f"{name}.log"
    return log.read_text() if log.exists() else ""


def pids(supervisor: Supervisor, name: str) -> list[keeper.Seen]:
    return keeper.noted(supervisor.notes / f"{name}.note")


def test_services_come_and_go_while_the_others_stay(supervisor: Supervisor, home: Home) -> None:
    first = named(supervisor, "first")
    supervisor.add(service("place-a", environment={"WORD": "told"}))
    wait_for(lambda: "word told" in word(home, "place-a"), "the new service to speak")
    tree = pids(supervisor, "place-a")
    supervisor.remove("place-a")
    assert named(supervisor, "place-a") is None
    assert all(keeper.seen(one.pid) is None for one in tree)
    assert list((home.services / "enabled").glob("place-a*")) == []
    again = named(supervisor, "first")
    assert first is not None and again is not None and first.pid == again.pid


def test_adding_the_same_twice_leaves_it_running_and_a_change_starts_it_anew(
    supervisor: Supervisor, home: Home
) -> None:
    supervisor.add(service("place-a", environment={"WORD": "one"}))
    first = named(supervisor, "place-a")
    supervisor.add(service("place-a", environment={"WORD": "one"}))
    assert first is not None and (same := named(supervisor, "place-a")) is not None and same.pid == first.pid
    supervisor.add(service("place-a", environment={"WORD": "two"}))
    wait_for(lambda: "word two" in word(home, "place-a"), "the changed service to speak")


def test_a_restart_gives_a_new_process_and_leaves_nothing_of_the_old(supervisor: Supervisor) -> None:
    wait_for(lambda: len(pids(supervisor, "first")) == 2, "keeper and service")
    tree = pids(supervisor, "first")
    supervisor.restart("first")
    assert all(keeper.seen(one.pid) is None for one in tree)
    after = named(supervisor, "first")
    assert after is not None and after.state == "RUNNING"


def test_a_killed_service_comes_back(supervisor: Supervisor) -> None:
    wait_for(lambda: len(pids(supervisor, "first")) == 2, "keeper and service")
    old = pids(supervisor, "first")
    os.kill(old[1].pid, signal.SIGKILL)
    wait_for(lambda: len(new := pids(supervisor, "first")) == 2 and new[1] != old[1], "a new process")


def test_a_service_waits_for_what_it_needs(supervisor: Supervisor, home: Home) -> None:
    port = free_port()
    supervisor.add(service("late", after=(f"tcp:{port}",)))
    wait_for(lambda: f"waiting for tcp:{port}" in word(home, "late"), "the keeper to wait")
    server = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port))
    supervisor.add(Service("server", server))
    wait_for(lambda: "word" in word(home, "late").replace("waiting", ""), "the late service to start")


def test_a_stranger_can_be_removed_but_not_restarted(supervisor: Supervisor) -> None:
    supervisor.remove("nobody")
    with pytest.raises(ServiceAway, match="no such service"):
        supervisor.restart("nobody")


def test_a_failing_service_can_be_removed(supervisor: Supervisor) -> None:
    supervisor.add(Service("broken", (sys.executable, "-c", "raise SystemExit(5)")))
    wait_for(lambda: "ended with 5" in word(supervisor.home, "broken"), "its end")
    supervisor.remove("broken")
    assert named(supervisor, "broken") is None


def test_after_kill_9_of_supervisord_a_new_start_finds_a_clean_machine(supervisor: Supervisor) -> None:
    wait_for(lambda: len(pids(supervisor, "first")) == 2, "keeper and service")
    tree = pids(supervisor, "first")
    os.kill(int((supervisor.home.services / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: not supervisor.is_running(), "its end")
    with pytest.raises(ServiceAway):
        supervisor.status()
    supervisor.start((service("first"),))
    wait_for(lambda: len(pids(supervisor, "first")) == 2, "the new pair")
    assert all(keeper.seen(one.pid) is None for one in tree)


def test_variables_lie_in_a_file_for_the_owner_alone(supervisor: Supervisor, home: Home) -> None:
    supervisor.add(service("place-a", environment={"WORD": "secret"}))
    file: Path = home.services / "enabled" / "place-a.json"
    assert json.loads(file.read_text()) == {"WORD": "secret"}
    assert file.stat().st_mode & 0o777 == 0o600


CHATTY = "import time\nwhile True: print('word' * 50, flush=True); time.sleep(0.01)"


def test_supervisord_and_its_services_live_through_a_full_disk() -> None:
    at = Path(tempfile.mkdtemp(prefix="tl-disk-"))
    with small_disk(at, "4m") as no_disk:
        if no_disk:
            pytest.skip(no_disk)
        one = Supervisor(Home(at))
        one.start((Service("chatty", (sys.executable, "-c", CHATTY)),))
        before, log = one.status(), at / "logs" / "chatty.log"
        with filled(at):
            silent = log.stat().st_size
            time.sleep(3)
            assert [(each.name, each.pid) for each in one.status()] == [(each.name, each.pid) for each in before]
        wait_for(lambda: log.stat().st_size > silent + 10_000, "the log to go on")
        one.stop()
    at.rmdir()
