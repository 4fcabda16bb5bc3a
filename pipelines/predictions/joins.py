"""Which predictions something new is about, and which label is in force for each: joined in PostgreSQL.

How a label finds its predictions is said in `label_clock`; here it is carried out. Only joins by index are used,
for they cost by the new rows: the planner takes (requested_at, seq) for two conditions, expects one row, and
would read whole tables for each of ten thousand. The log has a table a day: an id that the proxy gave begins with
its day (days since 1970), so that few days are looked at for it.
"""

from datetime import datetime
from typing import NamedTuple

from pipelines.predictions.cells import Owner
from pipelines.predictions.tables import Connection, Row
from pipelines.spec import UseCase


class Window(NamedTuple):
    """What is looked at: sequence numbers above the first, up to the second."""

    use_case: str
    predictions_from: int
    predictions_to: int
    labels_from: int
    labels_to: int

    @property
    def empty(self) -> bool:
        """Nothing is new."""
        return self.predictions_from >= self.predictions_to and self.labels_from >= self.labels_to


class Outcome(NamedTuple):
    """What happened to a prediction, by the label in force."""

    actual: float
    observed_at: datetime
    first_received_at: datetime


class Touched(NamedTuple):
    """A prediction that something new is about, as it was counted and as it is now."""

    requested_at: datetime
    seq: int
    owner: Owner
    superseded: bool
    new: bool
    event_time: datetime
    inputs: dict[str, float | str | None]
    outputs: dict[str, float]
    before: Outcome | None
    after: Outcome | None
    label_seq: int | None

    @property
    def changed(self) -> bool:
        """Whether the label in force, or when the first came, is another now."""
        return self.before != self.after


_TEMPORARY = """
create temp table if not exists touched (
  requested_at timestamptz, seq bigint, primary key (requested_at, seq)
) on commit delete rows;
create temp table if not exists matches (
  requested_at timestamptz, seq bigint, received_at timestamptz, label_seq bigint, actual double precision,
  observed_at timestamptz, joined boolean, own boolean
) on commit delete rows;
create temp table if not exists in_force (
  requested_at timestamptz, seq bigint, actual double precision, observed_at timestamptz,
  first_received_at timestamptz, label_seq bigint, primary key (requested_at, seq)
) on commit delete rows;
create temp table if not exists worked_out (like outcomes) on commit delete rows;
set local enable_hashjoin = off;
set local enable_mergejoin = off;
set local enable_seqscan = off;
delete from in_force;
delete from touched;
delete from matches
"""
_SEEN = """
update label_clock set
  own_ids = own_ids or exists (select from predictions where use_case = %(use_case)s and client_id is not null
    and seq > %(predictions_from)s and seq <= %(predictions_to)s),
  dated = dated or exists (select from labels where use_case = %(use_case)s and event_time is not null
    and prediction_id is null and seq > %(labels_from)s and seq <= %(labels_to)s)
where use_case = %(use_case)s returning own_ids, dated
"""
"""Whether clients ever gave ids of their own, and labels by key ever an event time: only by these is every day of
the log asked for each row."""
_NEW = """
insert into touched select requested_at, seq from predictions
where use_case = %(use_case)s and seq > %(predictions_from)s and seq <= %(predictions_to)s
"""
_SUPERSEDE = """
with new as (
  select distinct prediction_id from touched t
  join predictions p on p.requested_at = t.requested_at and p.seq = t.seq
), ranked as (
  select p.requested_at, p.seq, row_number() over (
    partition by p.prediction_id, p.shadow, case when p.shadow then p.model_version end
    order by p.requested_at desc, p.place desc, p.seq desc
  ) as rank
  from new cross join lateral (
    select * from predictions p
    where p.use_case = %(use_case)s and p.prediction_id = new.prediction_id
      and p.requested_at >= asked_from(new.prediction_id) and p.requested_at < asked_until(new.prediction_id)
      and p.seq <= %(predictions_to)s and not p.superseded
    offset 0
  ) p
), overtaken as (
  update predictions p set superseded = true from ranked r
  where r.rank > 1 and p.requested_at = r.requested_at and p.seq = r.seq
  returning p.requested_at, p.seq
)
insert into touched select requested_at, seq from overtaken on conflict do nothing
"""
_TOLD_OF = """
insert into touched
select p.requested_at, p.seq from labels l cross join lateral (
  select requested_at, seq from predictions p
  where p.use_case = l.use_case and p.prediction_id = l.prediction_id
    and p.requested_at >= asked_from(l.prediction_id) and p.requested_at < asked_until(l.prediction_id)
    and not p.superseded and p.seq <= %(predictions_to)s
  union all
  select requested_at, seq from predictions p
  where %(own_ids)s and p.use_case = l.use_case and p.client_id = l.prediction_id
    and not p.superseded and p.seq <= %(predictions_to)s
  union all
  select requested_at, seq from predictions p
  where p.use_case = l.use_case and p.entity_key = l.entity_key and p.event_time = l.event_time
    and l.prediction_id is null and not p.superseded and p.seq <= %(predictions_to)s
  union all
  select requested_at, seq from predictions p
  where p.use_case = l.use_case and p.entity_key = l.entity_key
    and l.prediction_id is null and l.event_time is null
    and p.requested_at < l.observed_at and p.requested_at >= l.observed_at - %(horizon)s
    and not p.superseded and p.seq <= %(predictions_to)s
) p
where l.use_case = %(use_case)s and l.seq > %(labels_from)s and l.seq <= %(labels_to)s
on conflict do nothing
"""
_MATCH = """
insert into matches
select t.requested_at, t.seq, l.*
from touched t join predictions p on p.requested_at = t.requested_at and p.seq = t.seq and not p.superseded
cross join lateral (
  select received_at, seq, actual, observed_at, joined, true from labels l
  where l.use_case = p.use_case and l.prediction_id = p.prediction_id and l.seq <= %(labels_to)s
    and l.received_at >= asked_from(p.prediction_id)
  union all
  select received_at, seq, actual, observed_at, joined, true from labels l
  where %(own_ids)s and l.use_case = p.use_case and l.prediction_id = p.client_id
    and p.client_id <> p.prediction_id and l.seq <= %(labels_to)s
  union all
  select received_at, seq, actual, observed_at, joined, true from labels l
  where %(dated)s and l.use_case = p.use_case and l.prediction_id is null and l.entity_key = p.entity_key
    and l.event_time = p.event_time and l.seq <= %(labels_to)s
  union all
  select received_at, seq, actual, observed_at, joined, false from labels l
  where l.use_case = p.use_case and l.prediction_id is null and l.entity_key = p.entity_key
    and l.event_time is null and l.observed_at > p.requested_at and l.received_at > p.requested_at
    and l.observed_at <= p.requested_at + %(horizon)s and l.seq <= %(labels_to)s
) l
"""
_CHOOSE = """
insert into in_force
select distinct on (requested_at, seq) requested_at, seq, actual, observed_at,
  min(received_at) over (partition by requested_at, seq), label_seq
from matches
order by requested_at, seq, own desc, observed_at desc, received_at desc, actual desc, label_seq
"""
_READ = """
select p.requested_at, p.seq, p.model_version,
  case when p.shadow then 'shadow' else coalesce(p.role, 'direct') end, p.superseded,
  p.seq > %(predictions_from)s, p.event_time, case when %(sliced)s then p.inputs end, p.outputs,
  o.actual, o.observed_at, o.first_received_at, l.actual, l.observed_at, l.first_received_at, l.label_seq
from touched t
join predictions p on p.requested_at = t.requested_at and p.seq = t.seq
left join outcomes o on o.requested_at = t.requested_at and o.prediction_seq = t.seq
left join in_force l on l.requested_at = t.requested_at and l.seq = t.seq
"""
_BETWEEN = """
select p.requested_at, p.seq, p.model_version,
  case when p.shadow then 'shadow' else coalesce(p.role, 'direct') end, p.superseded,
  true, p.event_time, case when %(sliced)s then p.inputs end, p.outputs,
  null, null, null, o.actual, o.observed_at, o.first_received_at, o.label_seq
from predictions p
left join outcomes o on o.requested_at = p.requested_at and o.prediction_seq = p.seq
where p.use_case = %(use_case)s and p.requested_at >= %(begin)s and p.requested_at < %(end)s and p.seq <= %(last)s
"""
_ARRIVED = """
select count(*) as labels, count(*) filter (where prediction_id is not null and not joined) as orphans,
  count(*) filter (where prediction_id is null) as keyed,
  count(*) filter (where prediction_id is null and not joined) as waiting
from labels where use_case = %(use_case)s and seq > %(labels_from)s and seq <= %(labels_to)s
"""
_JOINED = """
with met as (
  update labels l set joined = true from (
    select distinct received_at, label_seq from matches where not joined
  ) m where l.received_at = m.received_at and l.seq = m.label_seq
  returning l.prediction_id is null as keyed
)
select count(*) filter (where not keyed), count(*) filter (where keyed) from met
"""
_ADVANCE = """
update label_clock set predictions_seq = %s, labels_seq = %s,
  labels = labels + %s, orphans = orphans + %s, keyed = keyed + %s, waiting = waiting + %s
where use_case = %s
"""


def touched(connection: Connection, use_case: UseCase, window: Window) -> list[Touched]:
    """Every prediction that a record or a label of the window is about; records that were overtaken are marked."""
    new = {**window._asdict(), "horizon": use_case.horizon, "sliced": bool(use_case.slices)}
    new["own_ids"], new["dated"] = connection.execute(_SEEN, new).fetchone() or (True, True)
    for words in _TEMPORARY.split(";"):
        connection.execute(words)
    for words in (
        _NEW,
        _SUPERSEDE,
        _TOLD_OF,
        "analyze touched",
        _MATCH,
        "analyze matches",
        _CHOOSE,
        "analyze in_force",
    ):
        connection.execute(words, new if "%" in words else None)
    return [_touched(row) for row in connection.execute(_READ, new)]


def between(connection: Connection, use_case: UseCase, begin: datetime, end: datetime, last: int) -> list[Touched]:
    """Every prediction of a time, up to that number, as if it had just come, with the outcome that is kept."""
    asked = {"use_case": use_case.name, "begin": begin, "end": end, "last": last, "sliced": bool(use_case.slices)}
    return [_touched(row) for row in connection.execute(_BETWEEN, asked)]


def advance(connection: Connection, window: Window) -> None:
    """Remember that the window is done, and which labels have met a record; right after `touched`."""
    labels, orphans, keyed, waiting = connection.execute(_ARRIVED, window._asdict()).fetchone() or (0, 0, 0, 0)
    by_id, by_key = connection.execute(_JOINED).fetchone() or (0, 0)
    told = (labels, orphans - by_id, keyed, waiting - by_key)
    connection.execute(_ADVANCE, (window.predictions_to, window.labels_to, *told, window.use_case))


def _touched(row: Row) -> Touched:
    requested_at, seq, version, role, superseded, new, event_time, inputs, outputs, *told = row
    before = None if told[0] is None else Outcome(*told[:3])
    after = None if told[3] is None else Outcome(*told[3:6])
    owner = Owner(version, role)
    return Touched(
        requested_at, seq, owner, superseded, new, event_time, inputs or {}, outputs, before, after, told[6]
    )
