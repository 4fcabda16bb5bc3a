"""What the log tells of both arms of a rollout: latencies, answers to the same request, losses.

Records never change but for a mark, so latencies and answers are counted as they come, up to a number (`seq`).
Labels come late and are corrected, so losses are summed up anew from the outcomes in force.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

import numpy as np

from pipelines.predictions.tables import Connection
from pipelines.spec import Calibrated


class Compared(NamedTuple):
    """Whose answers are compared, and since when."""

    use_case: str
    challenger: str
    champion: str
    began: datetime
    """Of the rollout."""
    since: datetime
    """Of its stage."""


class Answers(NamedTuple):
    """One request that both answered."""

    challenger: dict[str, float]
    champion: dict[str, float]
    inputs: dict[str, float | str | None]


class Losses(NamedTuple):
    """Sums over labelled pairs (c, s) of the losses of challenger and champion."""

    n: int = 0
    c: float = 0.0
    s: float = 0.0
    cc: float = 0.0
    ss: float = 0.0
    cs: float = 0.0


_NEWEST = "select coalesce(max(seq), 0) from predictions"
_BEFORE = """
select coalesce(max(seq), 0) from predictions where requested_at < %s and requested_at >= %s - interval '2 days'
"""
_LATENCIES = """
select role, latency_ms from (
  select distinct regexp_replace(prediction_id, '-[0-9]+$', '') as request, role, latency_ms
  from predictions
  where use_case = %(use_case)s and seq > %(after)s and seq <= %(until)s and requested_at >= %(since)s
    and not shadow and (role, model_version) in (('stable', %(champion)s), ('canary', %(challenger)s))
) requests
"""
_OTHER = """
cross join lateral (
  select p.requested_at, p.seq, p.outputs from predictions p
  where p.use_case = s.use_case and p.prediction_id = s.prediction_id
    and p.requested_at >= asked_from(s.prediction_id) and p.requested_at < asked_until(s.prediction_id)
    and not p.shadow and not p.superseded
    and p.model_version = case when s.model_version = %(challenger)s then %(champion)s else %(challenger)s end
  offset 0
) o
"""
_ANSWERS = """
select s.model_version = %(challenger)s, s.outputs, o.outputs, s.inputs from predictions s <the other>
where s.use_case = %(use_case)s and s.seq > %(after)s and s.seq <= %(until)s and s.requested_at >= %(began)s
  and s.shadow and s.model_version in (%(challenger)s, %(champion)s)
""".replace("<the other>", _OTHER)
_PAIRED = """
with pairs as (
  select case when s.model_version = %(challenger)s then mine.loss else other.loss end as c,
    case when s.model_version = %(challenger)s then other.loss else mine.loss end as s
  from outcomes mine
  join predictions s on s.requested_at = mine.requested_at and s.seq = mine.prediction_seq
  <the other>
  join outcomes other on other.requested_at = o.requested_at and other.prediction_seq = o.seq
  where mine.use_case = %(use_case)s and mine.requested_at >= %(began)s and mine.shadow
    and mine.model_version in (%(challenger)s, %(champion)s) and mine.loss is not null and other.loss is not null
)
select count(*), coalesce(sum(c), 0), coalesce(sum(s), 0), coalesce(sum(c * c), 0), coalesce(sum(s * s), 0),
  coalesce(sum(c * s), 0) from pairs
""".replace("<the other>", _OTHER)
_SPLIT = """
select model_version, count(*), sum(loss), sum(loss * loss) from outcomes
where use_case = %(use_case)s and not shadow and model_version in (%(challenger)s, %(champion)s)
  and requested_at >= %(split_since)s and requested_at < %(split_until)s and loss is not null
group by model_version
"""
_LABELLED = """
select p.outputs, o.actual from outcomes o
join predictions p on p.requested_at = o.requested_at and p.seq = o.prediction_seq
where o.use_case = %(use_case)s and o.requested_at >= %(began)s and o.model_version = %(challenger)s
"""


def newest(connection: Connection) -> int:
    """The last record's number."""
    return _number(connection, _NEWEST)


def before(connection: Connection, time: datetime) -> int:
    """A number that every record asked for after that time lies above."""
    return _number(connection, _BEFORE, time, time)


def _number(connection: Connection, query: str, *values: object) -> int:
    row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0


def latencies(connection: Connection, of: Compared, after: int, until: int) -> list[tuple[str, float]]:
    """Role and milliseconds of each client's request since the stage began; a batch is one request."""
    return list(connection.execute(_LATENCIES, {**of._asdict(), "after": after, "until": until}).fetchall())


def answers(connection: Connection, of: Compared, after: int, until: int) -> Iterator[Answers]:
    """Requests that both answered; the later of the two answers lies in (after, until]."""
    for mine, replayed, first, inputs in connection.execute(
        _ANSWERS, {**of._asdict(), "after": after, "until": until}
    ):
        yield Answers(replayed, first, inputs) if mine else Answers(first, replayed, inputs)


def paired(connection: Connection, of: Compared) -> Losses:
    """Over all requests that both answered and whose label came."""
    row = connection.execute(_PAIRED, of._asdict()).fetchone()
    return Losses(*row) if row else Losses()


def split(
    connection: Connection, of: Compared, since: datetime, until: datetime
) -> dict[str, tuple[int, float, float]]:
    """By version: count, sum and sum of squares of the losses of what each answered itself in that time."""
    rows = connection.execute(_SPLIT, {**of._asdict(), "split_since": since, "split_until": until}).fetchall()
    return {version: (int(n), float(total), float(squares)) for version, n, total, squares in rows}


def residuals(
    connection: Connection, of: Compared, calibrated: Mapping[str, Calibrated]
) -> dict[str, tuple[int, float, float]]:
    """By output: count, sum and sum of squares of what happened (0 or 1) - the challenger's probability."""
    rows = connection.execute(_LABELLED, of._asdict()).fetchall()
    told = [(outputs, actual) for outputs, actual in rows if set(calibrated) <= outputs.keys()]
    actual = np.array([each for _, each in told], np.float64)
    return {
        name: _sums(np.asarray(one.event(actual), np.float64) - np.array([each[name] for each, _ in told]))
        for name, one in calibrated.items()
        if told
    }


def _sums(values: "np.typing.NDArray[np.float64]") -> tuple[int, float, float]:
    return len(values), float(values.sum()), float(np.square(values).sum())
