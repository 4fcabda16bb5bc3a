"""Shadow: requests that one version answered are asked again of the other's place, shortly after.

The place records what it answers under the request's own id, as shadow: so each pair is exact, the label of the
one is the label of the other, and no client waits. A row that was refused within a batch is sent as an empty one.
"""

import http.client
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pipelines.predictions.spool import SHADOW
from pipelines.predictions.tables import Connection
from pipelines.spec import UseCase

SHARES = 10_000
SHORTLY = timedelta(minutes=10)
"""A request that was answered longer ago is not asked again: after a pause the present counts."""
AT_ONCE = 2_000
"""Rows looked at in one round."""
_LOGGED = """
select seq, prediction_id, client_id, entity_key, event_time, inputs from predictions
where use_case = %(use_case)s and seq > %(after)s and seq <= %(until)s and requested_at > %(from)s
  and not shadow and not superseded and role = 'stable' and model_version = %(version)s
order by seq limit %(most)s
"""


class Logged(NamedTuple):
    """One request of the log."""

    request_id: str
    rows: list[dict[str, Any]]
    """In the places that they had; an empty one where the log has none."""


class Chosen(NamedTuple):
    """What is to be asked again, and up to which record that is all."""

    requests: tuple[Logged, ...]
    until: int


def choose(
    connection: Connection, use_case: UseCase, version: str, after: int, until: int, now: datetime
) -> Chosen:
    """The declared share of what `version` answered to clients, in the log's order."""
    asked = {"use_case": use_case.name, "version": version, "after": after, "until": until}
    rows = connection.execute(_LOGGED, {**asked, "from": now - SHORTLY, "most": AT_ONCE}).fetchall()
    reached = rows[-1][0] if len(rows) == AT_ONCE else until
    share = use_case.rollout.shadow.share
    return Chosen(tuple(_whole(use_case, (row for row in rows if in_share(_request_of(row[1]), share)))), reached)


def in_share(request_id: str, share: float) -> bool:
    """Whether a request is among that share; decided by its id alone, so that both arms may ask."""
    return zlib.crc32(request_id.encode()) % SHARES < share * SHARES


def _request_of(prediction_id: str) -> str:
    return prediction_id.rpartition("-")[0]


def _whole(use_case: UseCase, rows: Iterable[Sequence[Any]]) -> Iterator[Logged]:
    requests: dict[str, dict[int, dict[str, Any]]] = {}
    for _, prediction_id, client_id, key, event_time, inputs in rows:
        request, _, place = prediction_id.rpartition("-")
        body = {name: value for name, value in inputs.items() if value is not None}
        body |= {"event_time": event_time.isoformat()}
        body |= {} if key is None else {use_case.entity: key}
        body |= {} if client_id is None else {"prediction_id": client_id}
        requests.setdefault(request, {})[int(place)] = body
    for request, bodies in requests.items():
        yield Logged(request, [bodies.get(place, {}) for place in range(max(bodies) + 1)])


class Replayer:
    """Asks one place, over one connection."""

    def __init__(self, port: int, limit: timedelta) -> None:
        """`limit` is the use case's own: a place that takes longer is not waited for."""
        self.port = port
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=limit.total_seconds())

    def ask(self, requests: Iterable[Logged]) -> int:
        """How many were answered, up to the first that was not."""
        answered = 0
        for each in requests:
            if not (self._answers(each) or self._answers(each)):  # the first may meet a line that has ended
                break
            answered += 1
        return answered

    def _answers(self, request: Logged) -> bool:
        try:
            self._ask(request)
        except (OSError, http.client.HTTPException):
            self._line.close()
            return False
        return True

    def _ask(self, request: Logged) -> None:
        headers = {
            "content-type": "application/json",
            "x-request-id": request.request_id,
            "x-touchline-role": SHADOW,
        }
        self._line.request("POST", "/predict/batch", json.dumps({"rows": request.rows}), headers)
        self._line.getresponse().read()

    def close(self) -> None:
        """Hang up."""
        self._line.close()
