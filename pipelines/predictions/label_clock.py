"""The label clock: prediction → label → loss, per version; rollout, monitoring and retraining read it.

`catch_up` looks only at what came since its last run. For each prediction that a new record or label
touches it works the outcome out anew, so the order in which things arrive does not matter:
the record in force is the last one of its id, the label in force is the newest observation.
A label may name a prediction by its id or by the client's own; labels that name an entity wait.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import psycopg

from pipelines.errors import UnknownUseCase
from pipelines.spec import UseCase

log = logging.getLogger(__name__)
Connection = psycopg.Connection[tuple[Any, ...]]
Row = tuple[Any, ...]


class Version(NamedTuple):
    """The predictions of one model version; recorded = labelled + pending + expired (law L6)."""

    model_version: str
    recorded: int
    labelled: int
    pending: int
    expired: int
    late: int
    """Of the labelled: the first label came after the horizon."""
    superseded: int
    shadow: int
    scored: int
    """How many losses are in the sum: labelled ones with a finite loss."""
    loss_sum: float

    @property
    def mean_loss(self) -> float | None:
        """In the unit of the use case's loss; None before the first label."""
        return self.loss_sum / self.scored if self.scored else None


class Counts(NamedTuple):
    """Where the predictions and labels of one use case stand."""

    versions: tuple[Version, ...]
    labels: int
    """All that ever arrived."""
    orphans: int
    """Labels of ids that no record has (yet)."""
    keyed: int
    """Labels that name an entity and no prediction."""


class _Window(NamedTuple):
    """What is new: sequence numbers above the first, up to the second."""

    use_case: str
    predictions_from: int
    predictions_to: int
    labels_from: int
    labels_to: int


_NEWEST = "select coalesce(max(seq), 0) from {}"
_BEHIND = """
with least as (
  select coalesce(min(predictions_seq), 0) as predictions, coalesce(min(labels_seq), 0) as labels
  from label_clock
)
select use_case from predictions, least where seq > least.predictions
union select use_case from labels, least where seq > least.labels
"""
_SUPERSEDE = """
with new as (
  select distinct prediction_id from predictions
  where use_case = %(use_case)s and seq > %(predictions_from)s and seq <= %(predictions_to)s
), ranked as (
  select p.requested_at, p.seq, row_number() over (
    partition by p.prediction_id, p.shadow, case when p.shadow then p.model_version end
    order by p.requested_at desc, p.seq desc
  ) as place
  from new cross join lateral (
    select * from predictions p
    where p.use_case = %(use_case)s and p.prediction_id = new.prediction_id
      and p.seq <= %(predictions_to)s and not p.superseded
    offset 0
  ) p
)
update predictions p set superseded = true from ranked r
where r.place > 1 and p.requested_at = r.requested_at and p.seq = r.seq
returning p.requested_at, p.seq
"""
_TOUCHED = """
create temp table touched on commit drop as
select requested_at, seq from predictions
where use_case = %(use_case)s and not superseded
  and seq > %(predictions_from)s and seq <= %(predictions_to)s
union
select p.requested_at, p.seq from labels l cross join lateral (
  select requested_at, seq from predictions p
  where p.use_case = l.use_case and p.prediction_id = l.prediction_id and not p.superseded
  union all
  select requested_at, seq from predictions p
  where p.use_case = l.use_case and p.client_id = l.prediction_id and not p.superseded
) p
where l.use_case = %(use_case)s and l.seq > %(labels_from)s and l.seq <= %(labels_to)s
"""
_IN_FORCE = """
create temp table in_force on commit drop as
select p.seq, p.requested_at, p.model_version, p.shadow, p.outputs, p.prediction_id, p.client_id, l.*
from touched t join predictions p on p.requested_at = t.requested_at and p.seq = t.seq
cross join lateral (
  select actual, observed_at, min(received_at) over () as first_received_at, l.seq as label_seq from labels l
  where l.use_case = p.use_case and l.prediction_id = any(array[p.prediction_id, p.client_id])
    and l.seq <= %(labels_to)s
  order by observed_at desc, received_at desc, l.seq desc limit 1
) l
"""
_JOINED = """
update labels l set joined = true
where not l.joined and l.use_case = %(use_case)s and l.prediction_id in (
  select prediction_id from in_force union select client_id from in_force where client_id is not null
)
"""
_READ = """
select seq, requested_at, model_version, shadow, actual, observed_at, first_received_at, label_seq, outputs
from in_force
"""
_KEEP = """
insert into outcomes (prediction_seq, requested_at, model_version, shadow, actual, observed_at,
  first_received_at, label_seq, use_case, loss)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (requested_at, prediction_seq) do update set actual = excluded.actual, loss = excluded.loss,
  observed_at = excluded.observed_at, first_received_at = excluded.first_received_at,
  label_seq = excluded.label_seq
"""
_ADVANCE = """
insert into label_clock (use_case, predictions_seq, labels_seq)
values (%(use_case)s, %(predictions_to)s, %(labels_to)s) on conflict (use_case) do update
set predictions_seq = excluded.predictions_seq, labels_seq = excluded.labels_seq
"""
_COUNT = """
select p.model_version,
  count(*) filter (where p.counts),
  count(o.prediction_seq) filter (where p.counts),
  count(*) filter (where p.counts and o.prediction_seq is null and p.requested_at >= %(start)s),
  count(*) filter (where p.counts and o.prediction_seq is null and p.requested_at < %(start)s),
  count(*) filter (where p.counts and o.first_received_at > p.requested_at + %(horizon)s),
  count(*) filter (where p.superseded and not p.shadow),
  count(*) filter (where p.shadow),
  count(o.loss) filter (where p.counts),
  coalesce(sum(o.loss) filter (where p.counts), 0)
from (select *, not shadow and not superseded as counts from predictions where use_case = %(use_case)s) p
left join outcomes o on o.requested_at = p.requested_at and o.prediction_seq = p.seq
group by p.model_version order by p.model_version
"""
_COUNT_LABELS = """
select count(*), count(*) filter (where prediction_id is not null and not joined),
  count(*) filter (where prediction_id is null)
from labels where use_case = %s
"""


def catch_up(connection: Connection, load: Callable[[str], UseCase]) -> int:
    """Join what is new, in every use case; how many outcomes were worked out."""
    with connection.transaction():
        predictions_to = _number(connection, _NEWEST.format("predictions"))
        labels_to = _number(connection, _NEWEST.format("labels"))
        behind = {name for (name,) in connection.execute(_BEHIND)}
        connection.execute(
            "update label_clock set predictions_seq = %s, labels_seq = %s where use_case <> all(%s)",
            (predictions_to, labels_to, list(behind)),
        )
    return sum(_catch_up_one(connection, name, load, predictions_to, labels_to) for name in sorted(behind))


def counts(connection: Connection, use_case: UseCase, now: datetime) -> Counts:
    """Where everything stands at `now`: what has no label is pending, after the horizon expired."""
    asked = {"use_case": use_case.name, "start": now - use_case.horizon, "horizon": use_case.horizon}
    with connection.transaction():
        connection.execute("set local enable_partitionwise_join = on")
        versions = connection.execute(_COUNT, asked).fetchall()
        labels = connection.execute(_COUNT_LABELS, (use_case.name,)).fetchone() or (0, 0, 0)
    return Counts(tuple(Version(*version) for version in versions), *labels)


def _catch_up_one(
    connection: Connection, name: str, load: Callable[[str], UseCase], predictions_to: int, labels_to: int
) -> int:
    try:
        use_case = load(name)
    except UnknownUseCase as gone:
        log.warning("labels wait: %s", gone)
        return 0
    with connection.transaction():
        since = connection.execute(
            "select predictions_seq, labels_seq from label_clock where use_case = %s for update", (name,)
        ).fetchone() or (0, 0)
        return _join(connection, use_case, _Window(name, since[0], predictions_to, since[1], labels_to))


def _join(connection: Connection, use_case: UseCase, window: _Window) -> int:
    new = window._asdict()
    superseded = connection.execute(_SUPERSEDE, new).fetchall()
    with connection.cursor() as cursor:
        cursor.executemany(
            "delete from outcomes where requested_at = %s and prediction_seq = %s",
            superseded,
        )
    connection.execute(_TOUCHED, new)
    connection.execute("analyze touched")
    connection.execute(_IN_FORCE, new)
    connection.execute("analyze in_force")
    connection.execute(_JOINED, new)
    rows = connection.execute(_READ).fetchall()
    losses = _losses(use_case, rows)
    with connection.cursor() as cursor:
        kept = [(*row[:8], window.use_case, loss) for row, loss in zip(rows, losses, strict=True)]
        cursor.executemany(_KEEP, kept)
    connection.execute(_ADVANCE, new)
    connection.execute("drop table touched, in_force")
    return len(rows)


def _losses(use_case: UseCase, rows: list[Row]) -> Iterable[float | None]:
    """The loss of each row; None where it is not finite. Rows with the same outputs are scored at once."""
    losses: list[float | None] = [None] * len(rows)
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault(tuple(sorted(row[8])), []).append(place)
    for names, places in alike.items():
        outputs = {name: np.array([rows[place][8][name] for place in places], np.float64) for name in names}
        actual = np.array([rows[place][4] for place in places], np.float64)
        for place, loss in zip(places, use_case.loss(outputs, actual).tolist(), strict=True):
            losses[place] = loss if np.isfinite(loss) else None
    return losses


def _number(connection: Connection, words: str) -> int:
    row = connection.execute(words).fetchone()
    return int(row[0]) if row else 0
