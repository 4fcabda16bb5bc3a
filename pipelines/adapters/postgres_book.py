"""PostgreSQL: the record of candidates, what serves, events, and locks that keep runs apart."""

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from types import MappingProxyType
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pipelines.errors import Busy, ServiceAway
from pipelines.rollout.serving import Serving
from pipelines.spec import Frozen
from pipelines.tools import Event, Evidence, Notice

CONNECT_SECONDS = 5
POLL_SECONDS = 0.2
_AMEND = "update candidates set evidence = evidence || %s where training_key = %s returning evidence"


_KEPT: ContextVar[Mapping[str, psycopg.Connection]] = ContextVar("_KEPT", default=MappingProxyType({}))
"""By address: the connection that this thread keeps."""


@contextmanager
def connected(url: str) -> Generator[psycopg.Connection]:
    """One transaction, on the connection that is kept where one is; ServiceAway when the database is."""
    held = _KEPT.get().get(url)
    if held is None:
        with _opened(url, autocommit=False) as connection:
            yield connection
        return
    with _told_as_away(), held.transaction():
        yield held


@contextmanager
def kept(url: str) -> Generator[psycopg.Connection]:
    """One connection for every transaction of this thread inside: for a process that asks round after round.

    Opening one costs either side more than most questions do.
    """
    with _opened(url, autocommit=True) as connection:
        before = _KEPT.set({**_KEPT.get(), url: connection})
        try:
            yield connection
        finally:
            _KEPT.reset(before)


@contextmanager
def _opened(url: str, *, autocommit: bool) -> Generator[psycopg.Connection]:
    """A connection of its own; without `autocommit` all that is done with it is one transaction."""
    with (
        _told_as_away(),
        psycopg.connect(url, connect_timeout=CONNECT_SECONDS, autocommit=autocommit) as connection,
    ):
        yield connection


@contextmanager
def _told_as_away() -> Generator[None]:
    try:
        yield
    except psycopg.OperationalError as away:
        raise ServiceAway(f"PostgreSQL does not answer: {str(away).strip()[:200]}") from away


class PostgresBook:
    """`EvidenceBook`, and the reconciler's memory; every method is one transaction."""

    def __init__(self, url: str) -> None:
        self._url = url

    # --- candidates ------------------------------------------------------------------------------------

    def add(self, evidence: Evidence) -> Evidence:
        """Insert; of two at once the first stays, and both get it back."""
        with connected(self._url) as connection:
            connection.execute(
                "insert into candidates (training_key, use_case, evidence) values (%s, %s, %s) "
                "on conflict (training_key) do nothing",
                (evidence.training_key, evidence.use_case, _json(evidence)),
            )
        found = self.by_key(evidence.training_key)
        if found is None:
            raise ServiceAway(f"candidate {evidence.training_key} was written and is not there")
        return found

    def amend(self, training_key: str, **fields: object) -> Evidence:
        """Set fields and leave the others as they are, also when another amends at the same time."""
        changed = Evidence.model_construct(**fields).model_dump(mode="json", include=set(fields))  # type: ignore[arg-type]
        with connected(self._url) as connection:
            row = connection.execute(_AMEND, (Jsonb(changed), training_key)).fetchone()
        if row is None:
            raise KeyError(training_key)
        return Evidence.model_validate(row[0])

    def by_key(self, training_key: str) -> Evidence | None:
        """The record of that key."""
        return self._one("training_key = %s", training_key)

    def by_version(self, use_case: str, version: str) -> Evidence | None:
        """The record of that version."""
        return self._one("use_case = %s and evidence ->> 'version' = %s", use_case, version)

    def candidates(self, use_case: str) -> list[Evidence]:
        """Every record, oldest first."""
        with connected(self._url) as connection:
            rows = connection.execute(
                "select evidence from candidates where use_case = %s order by created_at", (use_case,)
            ).fetchall()
        return [Evidence.model_validate(row[0]) for row in rows]

    def versions(self, use_case: str) -> list[Evidence]:
        """Every candidate that became a version, oldest first."""
        with connected(self._url) as connection:
            rows = connection.execute(
                "select evidence from candidates where use_case = %s and evidence ->> 'version' is not null "
                "order by (evidence ->> 'version')::int",
                (use_case,),
            ).fetchall()
        return [Evidence.model_validate(row[0]) for row in rows]

    def _one(self, where: LiteralString, *values: str) -> Evidence | None:
        with connected(self._url) as connection:
            query = sql.SQL("select evidence from candidates where ") + sql.SQL(where)
            row = connection.execute(query, values).fetchone()
        return None if row is None else Evidence.model_validate(row[0])

    # --- what serves -----------------------------------------------------------------------------------

    def serving(self, use_case: str) -> Serving:
        """The recorded state; the empty one before the first."""
        with connected(self._url) as connection:
            row = connection.execute("select state from serving where use_case = %s", (use_case,)).fetchone()
        return Serving(use_case=use_case) if row is None else Serving.model_validate(row[0])

    def all_serving(self) -> list[Serving]:
        """The recorded state of every use case."""
        with connected(self._url) as connection:
            rows = connection.execute("select state from serving order by use_case").fetchall()
        return [Serving.model_validate(row[0]) for row in rows]

    def record(
        self,
        serving: Serving,
        events: tuple[Event, ...] = (),
        settled: Mapping[str, str] | None = None,
        also: Callable[[psycopg.Connection], None] | None = None,
    ) -> None:
        """State, what is to be said of it, the requests that it closes and what `also` writes: one transaction.

        Raises Busy when a later generation is there already.
        """
        with connected(self._url) as connection:
            done = connection.execute(
                "insert into serving (use_case, generation, state) values (%s, %s, %s) "
                "on conflict (use_case) do update set generation = excluded.generation, state = excluded.state, "
                "changed_at = now() where serving.generation <= excluded.generation",
                (serving.use_case, serving.generation, _json(serving)),
            )
            if done.rowcount != 1:
                raise Busy(
                    f"{serving.use_case}: generation {serving.generation} was overtaken by another reconciler"
                )
            for key, how in (settled or {}).items():
                connection.execute(_AMEND, (Jsonb({"promotion_settled": how}), key))
            for event in events:
                connection.execute(
                    "insert into events (at, use_case, kind, message) values (%s, %s, %s, %s)",
                    (event.at, event.use_case, event.kind, event.message),
                )
            if also is not None:
                also(connection)

    def events(self, use_case: str, most: int = 20) -> list[Event]:
        """The newest events, newest first."""
        with connected(self._url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "select at, use_case, kind, message from events where use_case = %s order by id desc limit %s",
                (use_case, most),
            )
            return [Event.model_validate(row) for row in cursor]


def _json(record: Frozen) -> Jsonb:
    return Jsonb(record.model_dump(mode="json"))


_CLAIM = """
with before as (
  select greatest(%(trained_at)s, max(at)) as at from label_claims where use_case = %(use_case)s
), counted as (
  select count(distinct coalesce(prediction_id, entity_key)) as n from labels, before
  where use_case = %(use_case)s and joined and received_at > before.at and received_at <= %(now)s
), kept as (
  insert into label_claims (use_case, at, labels)
  select %(use_case)s, %(now)s, n from counted where n >= %(enough)s
)
select n from counted
"""


class PostgresClaims:
    """`LabelClaims` over the labels of the log."""

    def __init__(self, url: str) -> None:
        self._url = url

    def claim(self, use_case: str, trained_at: datetime, now: datetime, enough: int) -> int:
        """Things labelled since the later of training and last claim; enough of them are claimed."""
        given = {"use_case": use_case, "trained_at": trained_at, "now": now, "enough": enough}
        with connected(self._url) as connection:
            kept = connection.execute(
                "select labels from label_claims where use_case = %(use_case)s and at = %(now)s", given
            ).fetchone()
            row = kept or connection.execute(_CLAIM, given).fetchone()
        return int(row[0]) if row else 0


class PostgresNotices:
    """`NoticeBook` in the platform's database."""

    def __init__(self, url: str) -> None:
        self._url = url

    def untold(self, key: str) -> bool:
        """Whether nobody was told of that cause yet."""
        with connected(self._url) as connection:
            return connection.execute("select 1 from notices where key = %s", (key,)).fetchone() is None

    def told(self, notice: Notice, at: datetime) -> None:
        """Keep it; the first telling counts."""
        with connected(self._url) as connection:
            connection.execute(
                "insert into notices (key, at, severity, title, body) values (%s, %s, %s, %s, %s) "
                "on conflict (key) do nothing",
                (notice.key, at, notice.severity, notice.title, notice.body),
            )


class PostgresLocks:
    """Advisory locks of a session: gone with the process that held them, however it ended."""

    def __init__(self, url: str, wait_seconds: float) -> None:
        self._url, self._wait = url, wait_seconds

    @contextmanager
    def hold(self, name: str) -> Generator[None]:
        """Wait for the lock; Busy when another run holds it for too long."""
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
        with _opened(self._url, autocommit=True) as connection:
            deadline = time.monotonic() + self._wait
            while not _try(connection, number):
                if time.monotonic() > deadline:
                    raise Busy(f"{name}: another run holds it for more than {self._wait:.0f} s")
                time.sleep(POLL_SECONDS)
            yield


def _try(connection: psycopg.Connection, number: int) -> bool:
    row = connection.execute("select pg_try_advisory_lock(%s)", (number,)).fetchone()
    return row is not None and bool(row[0])
