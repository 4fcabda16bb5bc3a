"""One supervisord a home: its configuration, its start and end, services that come and go while it runs."""

import configparser
import contextlib
import http.client
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.xmlrpc import SupervisorTransport

from pipelines.errors import CannotStart, ServiceAway
from pipelines.machine import keeper
from pipelines.machine.secrets import write
from pipelines.machine.services import Service, base_environment
from pipelines.settings import Home

START_SECONDS = 30.0
STOP_SECONDS = 90.0
KEEPER_SECONDS = 15.0
"""What a keeper needs beyond its service's grace."""
RETRIES = 20
LAST = "postgres"
"""Everybody else stops before it."""


class Process(NamedTuple):
    """One service as supervisord sees it; the pid is its keeper's."""

    name: str
    state: str
    """RUNNING (also while the keeper still waits), STOPPED, STOPPING, EXITED, FATAL, …"""
    pid: int
    uptime_seconds: int


class Supervisor:
    """Starts, stops and changes the services of one home. ServiceAway when supervisord does not run."""

    def __init__(self, home: Home) -> None:
        """Nothing is started or read yet."""
        self.home = home
        self.socket = home.services / "supervisor.sock"
        self.configuration = home.services / "supervisord.conf"
        self.folder = home.services / "enabled"
        self.notes = home.services / "notes"
        self._process: subprocess.Popen[bytes] | None = None

    # --- the whole -------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._call("getState")
        except ServiceAway:
            return False
        return True

    def was_killed(self) -> bool:
        """Whether it ended without the time to remove its pid file; only meaningful while it does not run."""
        return (self.home.services / "supervisord.pid").exists()

    def start(self, services: tuple[Service, ...]) -> None:
        """Start supervisord with exactly these services; what an earlier one left running is ended first."""
        self._prepare()
        for service in services:
            self._write(service)
        self._bury()
        self._process = process = self._launch()
        deadline = time.monotonic() + START_SECONDS
        while not self.is_running():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"supervisord did not start: {self._last_words()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop every service, the database last, then supervisord; also what a killed one left behind."""
        if self.is_running():
            running = [one.name for one in self.status()]
            self._stop_all([name for name in running if name != LAST])
            self._stop_all([name for name in running if name == LAST])
            pid = self._call("getPID")
            self._call("shutdown")
            self._await_end(pid)
        self._bury()
        self.sweep()

    def sweep(self) -> int:
        """End what runs without a supervisord; how many processes that were."""
        notes = sorted(self.notes.glob("*.note"))
        return sum(keeper.sweep(note, signal.SIGTERM, KEEPER_SECONDS) for note in notes)

    def leftovers(self) -> list[int]:
        """Pids that an earlier supervisord left; only meaningful while none runs."""
        return sorted({one.pid for note in self.notes.glob("*.note") for one in keeper.noted(note)})

    def status(self) -> list[Process]:
        """Every service, by name."""
        told: list[dict[str, Any]] = self._call("getAllProcessInfo")
        return sorted(
            Process(one["name"], one["statename"], one["pid"], one["now"] - one["start"] if one["pid"] else 0)
            for one in told
        )

    # --- one service -----------------------------------------------------------------------------------

    def add(self, service: Service) -> None:
        """Start a service, or start it anew when its declaration changed; the same twice does nothing."""
        changed = self._write(service)
        names = {one.name for one in self.status()}
        if service.name in names and not changed:
            return
        self._call("reloadConfig")
        if service.name in names:
            self._drop(service.name)
        self._call("addProcessGroup", service.name)

    def remove(self, name: str) -> None:
        """Stop a service and forget it; one that is not there is fine."""
        for file in (self._program(name), self._variables(name)):
            file.unlink(missing_ok=True)
        self._call("reloadConfig")
        if name in {one.name for one in self.status()}:
            self._drop(name)

    def restart(self, name: str) -> None:
        """Stop a service and start it again; ServiceAway when there is none of that name."""
        if name not in {one.name for one in self.status()}:
            raise ServiceAway(f"{name}: no such service on this machine")
        with contextlib.suppress(Refused):
            self._call("stopProcess", name)
        with contextlib.suppress(Refused):  # it ended by itself and is already back
            self._call("startProcess", name)

    def _drop(self, name: str) -> None:
        """Stop and forget; again when it was just coming back from an end of its own."""
        for _ in range(RETRIES):
            with contextlib.suppress(Refused):
                self._call("stopProcess", name)
            with contextlib.suppress(Refused):
                self._call("removeProcessGroup", name)
                return
        raise ServiceAway(f"supervisord cannot stop {name}")

    def _stop_all(self, names: list[str]) -> None:
        """Ask all at once and wait for the slowest."""
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            running = [one for one in self.status() if one.name in names and one.pid]
            if not running:
                return
            for one in running:
                if one.state != "STOPPING":
                    with contextlib.suppress(Refused):
                        self._call("stopProcess", one.name, False)
            time.sleep(0.1)

    # --- talking to it ---------------------------------------------------------------------------------

    def _call(self, what: str, *given: object) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
                return getattr(server.supervisor, what)(*given)
        except xmlrpc.client.Fault as fault:
            raise Refused(f"supervisord refused {what} {given}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException) as error:
            raise ServiceAway(f"supervisord of {self.home.root} does not answer: {error}") from error

    # --- files and start -------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Folders, the main file, and no service of an earlier start."""
        for folder in (self.home.services, self.folder, self.notes, self.home.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.home.services.chmod(0o700)
        for file in self.folder.iterdir():
            file.unlink()
        write(self.configuration, render_main(self.home, self.socket, self.folder))

    def _program(self, name: str) -> Path:
        return self.folder / f"{name}.conf"

    def _variables(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _write(self, service: Service) -> bool:
        """Write a service's two files; whether anything changed."""
        texts = {
            self._variables(service.name): json.dumps(dict(service.environment), indent=1, sort_keys=True),
            self._program(service.name): render_program(
                self.home, service, self._variables(service.name), self.notes / f"{service.name}.note"
            ),
        }
        changed = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
        for file in changed:
            write(file, texts[file])
        return bool(changed)

    def _launch(self) -> subprocess.Popen[bytes]:
        """supervisord in a session of its own: neither Ctrl-C nor the end of its caller reaches it."""
        with (self.home.logs / "supervisord.err").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines.machine.supervisord", "-n", "-c", str(self.configuration)],
                cwd=self.home.root,
                env=base_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def _await_end(self, pid: int) -> None:
        """Until that supervisord is gone."""
        deadline = time.monotonic() + STOP_SECONDS
        while _alive(pid) and time.monotonic() < deadline:
            self._bury()
            time.sleep(0.05)
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)

    def _bury(self) -> None:
        """Take note of the end of a supervisord that was our own child."""
        if self._process is not None:
            self._process.poll()

    def _last_words(self) -> str:
        return (self.home.logs / "supervisord.err").read_text()[-600:].strip() or "it said nothing"


class Refused(ServiceAway):
    """supervisord answered, and could not do it in the state that the service is in."""


def _alive(pid: int) -> bool:
    if keeper.LINUX:
        return keeper.seen(pid) is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def render_main(home: Home, socket: Path, folder: Path) -> str:
    """supervisord's own file."""
    sections: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": socket, "chmod": "0700"},
        "supervisord": {
            "logfile": home.logs / "supervisord.log",
            "logfile_maxbytes": "5MB",
            "loglevel": "warn",
            "logfile_backups": 1,
            "pidfile": home.services / "supervisord.pid",
            "childlogdir": home.logs,
            **({} if os.geteuid() else {"user": "root"}),
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "include": {"files": folder / "*.conf"},
    }
    return _ini(sections)


def render_program(home: Home, service: Service, variables: Path, note: Path) -> str:
    """One service's file: its keeper, and the keeper's patience."""
    program = {
        "command": shlex.join(_kept(service, variables, note)),
        "directory": home.root,
        "priority": service.priority,
        "autostart": "true",
        "autorestart": "true",
        "startsecs": 0,
        "startretries": 1_000_000,
        "stopsignal": "TERM",
        "stopwaitsecs": int(service.grace + KEEPER_SECONDS),
        "redirect_stderr": "true",
        "stdout_logfile": home.logs / f"{service.name}.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": 3,
    }
    return _ini({f"program:{service.name}": program})


def _kept(service: Service, variables: Path, note: Path) -> Iterator[str]:
    yield from (sys.executable, "-m", "pipelines.machine.keeper", service.name)
    yield from ("--note", str(note), "--environment", str(variables))
    yield from (part for need in service.after for part in ("--after", need))
    yield from ("--stop", service.stop, "--grace", str(service.grace))
    yield from ("--account", service.account) if service.account else ()
    yield from ("--lock", str(service.lock)) if service.lock else ()
    yield from ("--", *service.command)


def _ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    """As supervisord reads it: `%` starts an expansion there."""
    parser = configparser.RawConfigParser(delimiters=("=",))
    for name, values in sections.items():
        parser[name] = {key: str(value).replace("%", "%%") for key, value in values.items()}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()
