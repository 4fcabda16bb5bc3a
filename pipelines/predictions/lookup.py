"""One prediction of the log, with its label: by its id, or by the id that the client gave it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import Cursor
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
select use_case, prediction_id, client_id, entity_key, event_time, requested_at, place, role,
  model_version, bento_digest, inputs, outputs, latency_ms, shadow, superseded, seq from predictions
where use_case = any(%(use_cases)s) and
"""
_NEWEST_FIRST = "order by requested_at desc, place desc, seq desc limit 100"
_BY_ID = f"""
{_COLUMNS} prediction_id = %(id)s and requested_at >= asked_from(%(id)s) and requested_at < asked_until(%(id)s)
{_NEWEST_FIRST}
"""
_BY_CLIENT = f"{_COLUMNS} client_id = %(id)s {_NEWEST_FIRST}"
_OUTCOME = """
select label_seq, first_received_at, loss from outcomes where requested_at = %s and prediction_seq = %s
"""
_LABEL = "select actual, observed_at, received_at, source from labels where seq = %s and received_at >= %s limit 1"


def find(connection: Connection, name: str, use_cases: Sequence[str]) -> tuple[Recorded, ...]:
    """Every record of that id, the newest first; where there is none, those to which a client gave it.

    Each table is asked by the days that it can be in, so that a long log costs little more than a short one.
    """
    given = {"id": name, "use_cases": list(use_cases)}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_BY_ID, given).fetchall() or cursor.execute(_BY_CLIENT, given).fetchall()
        return tuple(_recorded(cursor, row) for row in rows)


def _recorded(cursor: Cursor[dict[str, Any]], row: dict[str, Any]) -> Recorded:
    outcome = cursor.execute(_OUTCOME, (row["requested_at"], row.pop("seq"))).fetchone()
    if outcome is None:
        return Recorded(**row, loss=None, label=None)
    found = cursor.execute(_LABEL, (outcome["label_seq"], outcome["first_received_at"])).fetchone()
    return Recorded(**row, loss=outcome["loss"], label=None if found is None else Label(**found))
