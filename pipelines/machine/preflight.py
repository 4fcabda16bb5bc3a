"""What a start needs, asked before anything is started. Each lack is a CannotStart: what, and what to do."""

import os
import pwd
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

from pipelines import catalog
from pipelines.adapters import haproxy
from pipelines.errors import CannotStart
from pipelines.machine import postgres
from pipelines.machine.services import tool
from pipelines.predictions import retention as log_retention
from pipelines.settings import DATABASES, Home, Settings

LAYOUT = 2
"""Version of the home's layout that this platform writes; an older one is dumped, then migrated."""
FREE_BYTES = 2 * 1024**3
LONGEST_HOME = 70
"""Bytes; unix sockets lie in the home, and the kernel takes paths of 107."""
PYTHONS = ((3, 11), (3, 12))


def check(settings: Settings) -> None:
    """Everything, in the order in which a person would mend it."""
    python(sys.version_info[:2])
    if settings.embedded:
        account()
    home(settings.at)
    room(settings.at)
    programs()
    ports(settings)
    retention(settings)


def retention(settings: Settings) -> None:
    """No prediction goes before its label may have come; BadSettings."""
    use_cases = [catalog.load(name, settings.use_cases) for name in sorted(catalog.find(settings.use_cases))]
    log_retention.checked(settings.retention_days, use_cases)


def python(version: tuple[int, ...]) -> None:
    """The dependencies are locked for these versions."""
    if version not in PYTHONS:
        told = ".".join(map(str, version))
        raise CannotStart(f"Python {told} is not supported: install Python 3.11 or 3.12 and remove .venv")


def databases(settings: Settings) -> None:
    """Each database of the user's own takes a connection that may make tables."""
    for name in DATABASES:
        try:
            with psycopg.connect(getattr(settings, name).get_secret_value(), connect_timeout=5) as connection:
                connection.execute("create temp table touchline_may_write (n int)")
        except psycopg.Error as error:
            raise CannotStart(f"TOUCHLINE_{name.upper()}: {str(error).strip()[:300]}") from None


def account() -> None:
    """PostgreSQL wants the name of its user."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise CannotStart(
            f"user id {os.geteuid()} has no entry in /etc/passwd, which PostgreSQL needs: use another"
        ) from None


def home(at: Home) -> None:
    """The folder is ours or empty, its layout is not newer, sockets fit into its path."""
    if len(os.fsencode(at.root)) > LONGEST_HOME:
        raise CannotStart(
            f"{at.root}: longer than {LONGEST_HOME} bytes, too long for sockets: set a shorter TOUCHLINE_HOME"
        )
    if not at.version.exists():
        if at.root.exists() and any(at.root.iterdir()):
            raise CannotStart(f"{at.root}: not empty and no home of Touchline: set TOUCHLINE_HOME to another")
        return
    if layout(at) > LAYOUT:
        raise CannotStart(f"{at.root}: made by a newer Touchline (layout {layout(at)}): upgrade this one")


def layout(at: Home) -> int:
    """The layout that the home has."""
    told = at.version.read_text().strip()
    if not told.isdigit():
        raise CannotStart(f"{at.version}: holds no number: the home is damaged, or none of Touchline")
    return int(told)


def room(at: Home) -> None:
    """Disk for databases, models and logs; a PostgreSQL without room does not even start again."""
    for folder in (at.root, *(() if os.geteuid() else (postgres.SYSTEM,))):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        if free < FREE_BYTES:
            told = f"{free / 1024**3:.1f} GiB free, at least {FREE_BYTES // 1024**3} are needed"
            raise CannotStart(f"{folder}: {told}: make room")


def programs() -> None:
    """Everything that will be started is installed."""
    postgres.wheel()
    haproxy.program()
    for name in ("airflow", "mlflow", "uv"):
        if not Path(tool(name)).exists():
            raise CannotStart(f"{tool(name)}: no such program: install the requirements again (`make up`)")


def taken(settings: Settings) -> Iterator[tuple[str, int]]:
    """Ports of the block that somebody listens on, by their use."""
    block = settings.ports
    named = {name: getattr(block, name) for name in ("proxy", "airflow", "mlflow", "postgres")}
    for name, port in (*named.items(), *((f"place {n}", port) for n, port in enumerate(block.places))):
        if not is_free(port):
            yield name, port


def ports(settings: Settings) -> None:
    """The whole block is free."""
    for name, port in taken(settings):
        raise CannotStart(
            f"port {port} ({name}) is taken by another program: stop that, or set TOUCHLINE_BASE_PORT "
            f"(now {settings.base_port}) to a free block of 32"
        )


def is_free(port: int) -> bool:
    """Whether a server could listen there; connections that linger after a stop do not count."""
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
