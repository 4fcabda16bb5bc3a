"""The foreground of `up`: shows every service's log until Ctrl-C, and starts a killed supervisord again."""

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.machine.progress import prefix, say
from pipelines.machine.supervisor import Supervisor

POLL_SECONDS = 0.3
CHECK_SECONDS = 2.0
WIDTH = 21
CHATTY = ("airflow-", "mlflow")
ROUTINE = ("[info ", " INFO: ", " INFO ")


class Tail:
    """New whole lines of every log file of a folder; files may come, rotate and go."""

    def __init__(self, folder: Path) -> None:
        """Lines that are there already are not shown."""
        self.folder = folder
        self._read = {file: (file.stat().st_ino, file.stat().st_size) for file in folder.glob("*.log")}

    def lines(self) -> Iterator[tuple[str, str]]:
        """(service, line) since the last call."""
        for file in sorted(self.folder.glob("*.log")):
            with contextlib.suppress(FileNotFoundError):  # rotated away this very moment
                yield from ((file.stem, line) for line in self._new(file))

    def _new(self, file: Path) -> list[str]:
        inode, offset = self._read.get(file, (0, 0))
        with file.open("rb") as log:
            now = file.stat().st_ino
            log.seek(offset if now == inode else 0)
            whole, newline, _ = log.read().rpartition(b"\n")
            self._read[file] = (now, (offset if now == inode else 0) + len(whole) + len(newline))
        return whole.decode(errors="replace").splitlines() if newline else []


def routine(service: str, line: str) -> bool:
    """What Airflow and MLflow say when all is well; it stays in their log files, for it would bury the rest."""
    return service.startswith(CHATTY) and any(level in line for level in ROUTINE)


def follow(supervisor: Supervisor, again: Callable[[], None]) -> None:
    """Print logs until Ctrl-C (KeyboardInterrupt) or until somebody else stops the services.

    A supervisord that ended without removing its pid file was killed: `again` starts everything anew.
    """
    tail, checked = Tail(supervisor.home.logs), time.monotonic()
    while True:
        for service, line in tail.lines():
            if not routine(service, line):
                say(f"{prefix(service, WIDTH)} {line}")
        if time.monotonic() > checked + CHECK_SECONDS:
            if not supervisor.is_running():
                if not supervisor.was_killed():
                    say("stopped by another command")
                    return
                say("supervisord was killed and all services with it: starting them again")
                again()
            checked = time.monotonic()
        time.sleep(POLL_SECONDS)


@contextmanager
def interruptible() -> Generator[None, None, None]:
    """TERM and a closed terminal end the foreground like Ctrl-C."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Generator[None, None, None]:
    """A second Ctrl-C does not leave half of the services behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
