"""The foreground of `up` with a real supervisord and one small service."""

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from pipelines.machine.front import follow, routine
from pipelines.machine.services import Service
from pipelines.machine.supervisor import Supervisor
from pipelines.settings import Home
from tests.conftest import wait_for

CLOCK = "import itertools, time\nfor n in itertools.count(): print('tick', n, flush=True); time.sleep(0.1)"
SERVICES = (Service("clock", (sys.executable, "-c", CLOCK)),)


@pytest.fixture
def supervisor(home: Home) -> Iterator[Supervisor]:
    one = Supervisor(home)
    one.start(SERVICES)
    yield one
    one.stop()


def test_it_shows_logs_starts_a_killed_supervisord_again_and_ends_with_an_orderly_stop(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, again = [""], threading.Event()

    def output() -> str:
        shown[0] += capsys.readouterr().out
        return shown[0]

    def restart() -> None:
        supervisor.start(SERVICES)
        again.set()

    front = threading.Thread(target=follow, args=(supervisor, restart))
    front.start()
    wait_for(lambda: "clock" in output() and "tick" in output(), "a line of the service")
    os.kill(int((supervisor.home.services / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(again.is_set, "the second start")
    assert "supervisord was killed" in output()
    supervisor.stop()
    front.join(60)
    assert not front.is_alive()
    assert "stopped by another command" in output()


def test_routine_lines_of_the_chatty_services_stay_in_their_files() -> None:
    assert routine("airflow-scheduler", "2026-11-21T13:22:44Z [info     ] Refreshing bundle")
    assert routine("mlflow", '2026/11/21 13:22:35 INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK')
    assert not routine("airflow-scheduler", "2026-11-21T13:22:44Z [error    ] gone")
    assert not routine("reconciler", "2026-11-21 13:22:44 INFO pipelines version 1 serves")
