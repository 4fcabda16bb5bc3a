"""PostgreSQL: orders to the reconciler, the history of rollouts, and what the judge has counted."""

from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pipelines.adapters.postgres_book import connected
from pipelines.predictions.arms import Compared
from pipelines.rollout.counting import Counted
from pipelines.rollout.evidence import Verdict
from pipelines.rollout.serving import Change, Serving
from pipelines.rollout.stages import Entry, Looked, Order, Rollout
from pipelines.spec import Frozen

NOTABLE = ("held", "rolled back", "promoted")
"""Kinds of changes that a person is told of."""
_CHANGED = """
select use_case, began, at, version, stage_before, stage_after, percent, kind, who, why, evidence
from rollout_changes
"""
_CHANGES = f"{_CHANGED} where use_case = %s and began = %s order by id"
_NOTABLE = f"{_CHANGED} where at >= %s and kind = any(%s) order by id"
_ADD = """
insert into rollout_changes
  (use_case, began, at, version, stage_before, stage_after, percent, kind, who, why, evidence)
values (%(use_case)s, %(began)s, %(at)s, %(version)s, %(stage_before)s, %(stage_after)s, %(percent)s, %(kind)s,
  %(who)s, %(why)s, %(evidence)s)
"""
_KEEP = """
insert into rollouts (use_case, began, version, against, state)
values (%(use_case)s, %(began)s, %(version)s, %(against)s, %(state)s)
on conflict (use_case, began) do update set state = excluded.state
"""
_LOOK = """
insert into rollout_sums (use_case, began, since, sums, looked_at, verdict)
values (%(use_case)s, %(began)s, %(since)s, %(sums)s, %(now)s, %(verdict)s)
on conflict (use_case, began) do update set since = excluded.since, sums = excluded.sums,
  looked_at = excluded.looked_at, verdict = excluded.verdict
"""
_KEEP_LOOK = """
with last as (
  select at, stage, verdict ->> 'verdict' as word from rollout_looks
  where use_case = %(use_case)s and began = %(began)s order by at desc limit 1
)
insert into rollout_looks (use_case, began, at, stage, verdict)
select %(use_case)s, %(began)s, %(now)s, %(stage)s, %(verdict)s
where not exists (
  select from last where stage = %(stage)s and word = %(verdict)s::jsonb ->> 'verdict'
    and %(now)s - at < %(kept)s * (%(now)s - %(began)s)
)
on conflict do nothing
"""
_END = """
update rollouts set ended_at = %(at)s, outcome = %(outcome)s, why = %(why)s
where use_case = %(use_case)s and began = %(began)s
"""


class Past(Frozen):
    """A rollout that has ended, or the one under way."""

    use_case: str
    began: datetime
    version: str
    against: str
    state: Rollout
    ended_at: datetime | None
    outcome: str | None
    why: str | None
    pictured_at: datetime | None


class PostgresRollouts:
    """What people and processes know of rollouts; every method is one transaction."""

    def __init__(self, url: str) -> None:
        self._url = url

    def order(self, order: Order) -> int:
        """Ask the reconciler; the order's number."""
        values = (order.use_case, order.at, order.kind, order.version, order.stage, order.who, order.why)
        with connected(self._url) as connection:
            row = connection.execute(
                "insert into rollout_orders (use_case, at, kind, version, stage, who, why)"
                " values (%s, %s, %s, %s, %s, %s, %s) returning id",
                values,
            ).fetchone()
        return int(row[0]) if row else 0

    def settled(self, number: int) -> str | None:
        """What became of an order; None while it waits."""
        with connected(self._url) as connection:
            row = connection.execute("select settled from rollout_orders where id = %s", (number,)).fetchone()
        return None if row is None else row[0]

    def waiting(self, use_case: str) -> Order | None:
        """The oldest order that waits."""
        with connected(self._url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "select * from rollout_orders where use_case = %s and settled is null order by id limit 1",
                (use_case,),
            )
            row = cursor.fetchone()
        return None if row is None else Order.model_validate(row)

    def looked(self, use_case: str) -> Looked | None:
        """The judge's newest verdict."""
        with connected(self._url) as connection:
            row = connection.execute(
                "select began, since, verdict from rollout_sums where use_case = %s and verdict is not null"
                " order by began desc limit 1",
                (use_case,),
            ).fetchone()
        return None if row is None else Looked(row[0], row[1], Verdict.model_validate(row[2]))

    def past(self, use_case: str, most: int = 10) -> list[Past]:
        """The newest rollouts, newest first; the one under way is among them."""
        with connected(self._url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "select * from rollouts where use_case = %s order by began desc limit %s", (use_case, most)
            )
            return [Past.model_validate(row) for row in cursor]

    def under_way(self) -> list[Past]:
        """Of every use case."""
        with connected(self._url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("select * from rollouts where ended_at is null order by began")
            return [Past.model_validate(row) for row in cursor]

    def changes(self, use_case: str, began: datetime) -> list[Entry]:
        """What happened to a rollout, in its order."""
        with connected(self._url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(_CHANGES, (use_case, began))
            return [Entry.model_validate(row) for row in cursor]

    def notable(self, since: datetime) -> list[Entry]:
        """Changes that a person is told of, of every use case."""
        with connected(self._url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(_NOTABLE, (since, list(NOTABLE)))
            return [Entry.model_validate(row) for row in cursor]

    def looks(self, use_case: str, began: datetime) -> list[tuple[datetime, str, Verdict]]:
        """Verdicts over time: when, in which stage, what."""
        with connected(self._url) as connection:
            rows = connection.execute(
                "select at, stage, verdict from rollout_looks where use_case = %s and began = %s order by at",
                (use_case, began),
            ).fetchall()
        return [(at, stage, Verdict.model_validate(told)) for at, stage, told in rows]

    def counted(self, use_case: str, began: datetime) -> tuple[datetime, Counted] | None:
        """What the judge has counted of a rollout, and of which stage; None before its first look."""
        with connected(self._url) as connection:
            row = connection.execute(
                "select since, sums from rollout_sums where use_case = %s and began = %s", (use_case, began)
            ).fetchone()
        return None if row is None else (row[0], Counted.model_validate(row[1]))

    def look(
        self, of: Compared, counted: Counted, verdict: Verdict, stage: str, now: datetime, kept: float
    ) -> None:
        """Keep sums and verdict; for the picture also, when it says otherwise or the last is long ago.

        Long: longer than `kept` times the rollout's age.
        """
        given = {
            **of._asdict(),
            "now": now,
            "stage": stage,
            "kept": kept,
            "sums": Jsonb(counted.model_dump(mode="json")),
            "verdict": Jsonb(verdict.model_dump(mode="json")),
        }
        with connected(self._url) as connection:
            connection.execute(_LOOK, given)
            connection.execute(_KEEP_LOOK, given)

    def unpictured(self, since: timedelta) -> list[Past]:
        """Rollouts that changed after their picture was made, of those that are not long past."""
        query = """
        select r.* from rollouts r where began > now() - %s and exists (
          select from rollout_changes c where c.use_case = r.use_case and c.began = r.began
            and c.at > coalesce(r.pictured_at, '-infinity')
        )
        """
        with connected(self._url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query, (since,))
            return [Past.model_validate(row) for row in cursor]

    def pictured(self, use_case: str, began: datetime, at: datetime) -> None:
        """Its picture shows what was known then."""
        with connected(self._url) as connection:
            connection.execute(
                "update rollouts set pictured_at = %s where use_case = %s and began = %s", (at, use_case, began)
            )


def write(connection: psycopg.Connection[Any], old: Serving, change: Change, now: datetime) -> None:
    """History and the settled order of a change, within the transaction that records the state."""
    if change.order is not None:
        connection.execute("update rollout_orders set settled = %s where id = %s", (change.why, change.order.id))
    entry = entry_of(old, change, now)
    if entry is None:
        return
    rollout = change.serving.rollout
    if rollout is not None:
        state = {**entry.model_dump(), "against": rollout.against, "state": Jsonb(rollout.model_dump(mode="json"))}
        connection.execute(_KEEP, state)
    if change.ended is not None:
        connection.execute(_END, {**entry.model_dump(), "outcome": change.ended.outcome})
    told = entry.model_dump()
    told["evidence"] = None if entry.evidence is None else Jsonb(entry.evidence.model_dump(mode="json"))
    connection.execute(_ADD, told)


def entry_of(old: Serving, change: Change, now: datetime) -> Entry | None:
    """What the history says of a change; None where the rollout stayed as it was."""
    before, after = old.rollout, change.serving.rollout
    if before == after or (rollout := after or before) is None:
        return None
    return Entry(
        at=now,
        use_case=old.use_case,
        began=rollout.began,
        version=rollout.version,
        stage_before=before and before.label,
        stage_after=after and after.label,
        percent=_percent(change),
        kind=change.kind,
        who=change.who,
        why=change.why,
        evidence=change.looked and change.looked.verdict,
    )


def _percent(change: Change) -> float:
    if change.serving.rollout is not None:
        return change.serving.rollout.percent
    return 100.0 if change.ended is not None and change.ended.outcome == "done" else 0.0
