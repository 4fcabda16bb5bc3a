"""Stands before one service: sweeps what an earlier copy left, waits for what it needs, leaves nothing.

    python -m pipelines.machine.keeper NAME --note FILE [--after pg:PORT] [--stop INT] [--grace 10] -- …

supervisord alone neither waits for readiness nor ends process trees: tasks of Airflow live in sessions and
process groups of their own. Standard library only, because one keeper runs for every service.
On Linux the kernel helps: the keeper dies with its parent (PDEATHSIG), orphans become its children
(CHILD_SUBREAPER), and /proc tells a process from a later one of the same number by its start time.
Elsewhere it only passes signals on.
"""

import argparse
import contextlib
import ctypes
import json
import os
import pwd
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.boot import boot

LINUX = sys.platform == "linux"
PROC = Path("/proc")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_SECONDS = 0.2
SNAPSHOT_SECONDS = 1.0
LAST_WORDS_SECONDS = 2.0
"""Between TERM and KILL for what a service leaves running."""
REST_SECONDS = 2.0
"""Before the end is reported of a service that ended soon after its start: supervisord repeats at once."""


class Order(NamedTuple):
    """What one keeper was told."""

    name: str
    command: tuple[str, ...]
    note: Path
    after: tuple[str, ...] = ()
    stop: signal.Signals = signal.SIGTERM
    grace: float = 10
    account: str | None = None
    environment: Path | None = None
    """JSON object; variables that no command line may show."""
    lock: Path | None = None
    """A pid file beside the service's data: whoever works in that folder is a leftover."""


class Seen(NamedTuple):
    """One process as /proc shows it."""

    pid: int
    parent: int
    session: int
    started: int
    """Clock ticks since boot; with the pid it names a process for good."""


def parse(argv: list[str]) -> Order:
    """Read the command line; all after `--` is the service's own."""
    mine, command = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(prog="keeper", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--note", type=Path, required=True)
    parser.add_argument("--after", action="append", default=[], help="tcp:PORT, http:PORT/path or pg:PORT")
    parser.add_argument("--stop", default="TERM")
    parser.add_argument("--grace", type=float, default=10)
    parser.add_argument("--account")
    parser.add_argument("--environment", type=Path)
    parser.add_argument("--lock", type=Path)
    given = parser.parse_args(mine)
    if not command:
        parser.error("no command after --")
    given.stop = signal.Signals[f"SIG{given.stop}"]
    return Order(command=tuple(command), **{**vars(given), "after": tuple(given.after)})


def say(order: Order, text: str) -> None:
    """One line into the service's log."""
    sys.stderr.write(f"keeper {order.name}: {text}\n")
    sys.stderr.flush()


# --- what runs -------------------------------------------------------------------------------------------


def seen(pid: int) -> Seen | None:
    """That process; None when it is gone, or a zombie."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    state, parent, _, session, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else Seen(pid, int(parent), int(session), int(rest[15]))


def everyone() -> list[Seen]:
    """Every process that is alive; empty where there is no /proc."""
    pids = (int(each.name) for each in PROC.iterdir() if each.name.isdigit()) if LINUX else ()
    return [one for pid in pids if (one := seen(pid))]


def descendants(pid: int) -> list[Seen]:
    """Every living process below that one; zombies are walked through, they may have children."""
    found: list[Seen] = []
    for child in _children(pid):
        one = seen(child)
        found += [*([one] if one else []), *descendants(child)]
    return found


def with_me() -> list[Seen]:
    """This keeper and all below it."""
    mine = seen(os.getpid())
    return [*([mine] if mine else []), *descendants(os.getpid())]


def _children(pid: int) -> list[int]:
    """The kernel's own list, thread by thread: far cheaper than reading all of /proc once a second."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


# --- leftovers -------------------------------------------------------------------------------------------


def take_note(note: Path, session: int, living: Iterable[Seen]) -> bool:
    """Keep who belongs to the service, so that a later keeper finds it even after our kill -9.

    False on a full disk: the note before stays, and no service ends for want of a newer one.
    """
    text = json.dumps({"boot": boot(), "session": session, "pids": {one.pid: one.started for one in living}})
    partial = note.with_suffix(".partial")
    try:
        partial.write_text(text)
        partial.replace(note)
    except OSError:
        return False
    return True


def noted(note: Path) -> list[Seen]:
    """Who of an earlier copy is still alive: by pid and start time, or by its session."""
    try:
        kept = json.loads(note.read_text())
    except (OSError, ValueError):
        return []
    if kept["boot"] != boot():
        return []
    pids = {int(pid): started for pid, started in kept["pids"].items()}
    leader = seen(kept["session"])
    session = kept["session"] if leader is None or pids.get(leader.pid) == leader.started else 0
    return [one for one in everyone() if pids.get(one.pid) == one.started or 0 < one.session == session]


def working_in(folder: Path) -> list[Seen]:
    """Whose working directory is that folder: a PostgreSQL, or a stuck part of one."""
    found = []
    for one in everyone():
        with contextlib.suppress(OSError):
            if (PROC / str(one.pid) / "cwd").readlink() == folder.resolve():
                found.append(one)
    return found


def sweep(note: Path, stop: signal.Signals, grace: float, lock: Path | None = None) -> int:
    """End what an earlier copy left; how many processes that were."""
    mine = {os.getpid(), os.getppid()}

    def left() -> list[Seen]:
        found = {*noted(note), *(working_in(lock.parent) if lock else ())}
        return [one for one in found if one.pid not in mine]

    number = len(left())
    end(left, stop, grace)
    note.unlink(missing_ok=True)
    if lock is not None:
        release(lock)
    return number


def release(lock: Path) -> None:
    """Remove a pid file whose number now belongs to somebody else: its owner would never start again."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(lock.read_text().split()[0])
        if seen(pid) and (PROC / str(pid) / "cwd").readlink() != lock.parent.resolve():
            lock.unlink()


def end(left: Callable[[], list[Seen]], stop: signal.Signals, grace: float) -> None:
    """Ask all of them to stop, kill after the grace whoever stays, and see them gone."""
    tell(left(), stop)
    deadline = time.monotonic() + grace
    while (living := left()) and time.monotonic() < deadline + LAST_WORDS_SECONDS:
        if time.monotonic() > deadline:
            tell(living, signal.SIGKILL)
        time.sleep(0.05)


def tell(processes: Iterable[Seen], what: signal.Signals) -> None:
    """Send a signal to each that is still the process it was."""
    for one in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            again = seen(one.pid)
            if again and again.started == one.started:
                os.kill(one.pid, what)


# --- start order -----------------------------------------------------------------------------------------


def answers(need: str) -> bool:
    """Whether `tcp:PORT`, `http:PORT/path` (2xx) or `pg:PORT` (takes connections) is there."""
    kind, _, where = need.partition(":")
    port, slash, path = where.partition("/")
    asks = {"tcp": b"", "http": _get(port, slash + path), "pg": _hello()}
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=2) as line:
            line.sendall(asks[kind])
            reply = line.recv(256) if asks[kind] else b""
    except OSError:
        return False
    return {"tcp": True, "http": reply[8:10] == b" 2", "pg": reply[:1] == b"R"}[kind]


def _get(port: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()


def _hello() -> bytes:
    """PostgreSQL's first message; one that takes connections asks for a password ('R'), others err ('E')."""
    told = struct.pack("!i", 196608) + b"user\0keeper\0database\0postgres\0\0"
    return struct.pack("!i", len(told) + 4) + told


def await_all(order: Order) -> None:
    """Come back when everything that the service needs answers: this is the start order."""
    for need in order.after:
        if not answers(need):
            say(order, f"waiting for {need}")
        while not answers(need):
            time.sleep(POLL_SECONDS)


# --- the service -----------------------------------------------------------------------------------------


def ask_kernel(option: int, value: int) -> None:
    """`prctl`, where there is one."""
    if LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(order: Order) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, to die with this keeper.

    The account changes before the death signal is set, because the change clears it.
    PostgreSQL, stopped by INT, also dies by INT: a kill would cost it a recovery.
    """
    keeper, parting = os.getpid(), signal.SIGINT if order.stop is signal.SIGINT else signal.SIGKILL

    def bind() -> None:
        ask_kernel(PR_SET_PDEATHSIG, parting)
        if os.getppid() != keeper:
            os._exit(1)

    kept: dict[str, str] = json.loads(order.environment.read_text()) if order.environment else {}
    return subprocess.Popen(
        order.command,
        env={**os.environ, **kept},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=bind,
        **_as_account(order.account),
    )


def _as_account(account: str | None) -> dict[str, Any]:
    if account is None:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


class Watch:
    """One running service: its signals, its tree, its end."""

    def __init__(self, order: Order) -> None:
        """Listen before the start, so that no signal is lost."""
        self.order = order
        self.code: int | None = None
        self.stop_asked = False
        self.kill_at = float("inf")
        self.known: list[Seen] = []
        self.bell, ring = socket.socketpair()
        for each in (self.bell, ring):
            each.setblocking(False)
        self._ring = ring  # kept open: the kernel's signals come through it
        signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _stop(self, *_: object) -> None:
        self.stop_asked = True

    def run(self) -> int:
        """Start it and stay until it and all below it is gone; its exit code."""
        child, born = start(self.order), time.monotonic()
        while self.code is None:
            self._note(child.pid)
            self._doze(SNAPSHOT_SECONDS)
            self._reap(child)
            self._pass_on(child)
        end(self._below, signal.SIGTERM, LAST_WORDS_SECONDS)
        self.order.note.unlink(missing_ok=True)
        while not self.stop_asked and time.monotonic() < born + REST_SECONDS:
            self._doze(REST_SECONDS)
        return self.code if self.code >= 0 else 128 - self.code

    def _doze(self, seconds: float) -> None:
        """Sleep until a signal comes."""
        select.select([self.bell], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self.bell.recv(64)

    def _note(self, session: int) -> None:
        living = with_me()
        if living != self.known and take_note(self.order.note, session, living):
            self.known = living

    def _below(self) -> list[Seen]:
        self._reap(None)
        return descendants(os.getpid())

    def _reap(self, child: subprocess.Popen[bytes] | None) -> None:
        """Bury every child that ended, adopted ones too; remember how the service itself did."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if child is not None and ended[0] == child.pid:
                    self.code = child.returncode = os.waitstatus_to_exitcode(ended[1])

    def _pass_on(self, child: subprocess.Popen[bytes]) -> None:
        """Hand the stop signal on once, and kill after the grace."""
        if self.code is not None or not self.stop_asked:
            return
        if self.kill_at == float("inf"):
            self.kill_at = time.monotonic() + self.order.grace
            os.kill(child.pid, self.order.stop)
        elif time.monotonic() > self.kill_at:
            os.kill(child.pid, signal.SIGKILL)


def keep(order: Order) -> int:
    """Run one service to its end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = os.getppid()
    ask_kernel(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    ask_kernel(PR_SET_CHILD_SUBREAPER, 1)
    if number := sweep(order.note, order.stop, order.grace, order.lock):
        say(order, f"swept {number} processes of an earlier copy")
    take_note(order.note, 0, with_me())
    await_all(order)
    code = Watch(order).run()
    say(order, f"{order.command[0]} ended with {code}")
    return code


if __name__ == "__main__":
    sys.exit(keep(parse(sys.argv[1:])))
