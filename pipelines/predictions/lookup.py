"""One prediction of the log, with its label: by its id, or by the id that the client gave it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from pipelines.predictions.tables import Connection
from pipelines.spec import Frozen


class Label(Frozen):
    """What was said of a prediction, and is in force."""

    actual: float
    observed_at: datetime
    received_at: datetime
    source: str
    """api, or the table whose rows told it."""


class Recorded(Frozen):
    """One record (contract C2)."""

    use_case: str
    prediction_id: str
    client_id: str | None
    entity_key: str | None
    event_time: datetime
    requested_at: datetime
    place: str
    role: str | None
    model_version: str
    bento_digest: str
    inputs: dict[str, Any]
    outputs: dict[str, float]
    latency_ms: float
    shadow: bool
    superseded: bool
    """A later record has its id: that one is the answer."""
    loss: float | None
    label: Label | None
    """None while none has come, or while its own record was dropped by the retention."""


_COLUMNS = """
p.use_case, p.prediction_id, p.client_id, p.entity_key, p.event_time, p.requested_at, p.place, p.role,
p.model_version, p.bento_digest, p.inputs, p.outputs, p.latency_ms, p.shadow, p.superseded, o.loss,
l.actual, l.observed_at, l.received_at, l.source
"""
_OF = """
from predictions p
left join outcomes o on o.requested_at = p.requested_at and o.prediction_seq = p.seq
left join labels l on l.seq = o.label_seq and l.received_at >= o.first_received_at
"""
_BY_ID = f"""
select {_COLUMNS} {_OF} where p.use_case = any(%(use_cases)s) and p.prediction_id = %(id)s
  and p.requested_at >= asked_from(%(id)s) and p.requested_at < asked_until(%(id)s)
order by p.requested_at desc, p.place desc, p.seq desc
"""
_BY_CLIENT = f"""
select {_COLUMNS} {_OF} where p.use_case = any(%(use_cases)s) and p.client_id = %(id)s
order by p.requested_at desc, p.place desc, p.seq desc limit 100
"""
_LABEL = ("actual", "observed_at", "received_at", "source")


def find(connection: Connection, name: str, use_cases: Sequence[str]) -> tuple[Recorded, ...]:
    """Every record of that id, the newest first; where there is none, those to which a client gave it."""
    given = {"id": name, "use_cases": list(use_cases)}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_BY_ID, given).fetchall() or cursor.execute(_BY_CLIENT, given).fetchall()
    return tuple(map(_recorded, rows))


def _recorded(row: dict[str, Any]) -> Recorded:
    told = {name: row.pop(name) for name in _LABEL}
    return Recorded(**row, label=None if told["actual"] is None else Label(**told))
