"""Rows of a database, read after a cursor with SQLAlchemy, landed as JSON Lines.

Landing the rows as bytes makes lineage, batches and replay those of files. The cursor travels in the
arrival's stamp and is committed with the intents: there is no other place where it could disagree.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import IO, Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pipelines.errors import BadUseCase, ServiceAway
from pipelines.spec import Sql, Table, UseCase
from pipelines.tools import Arrival

FETCH = 1000
TIME = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?$")
ANSWERED = """
select p.prediction_id, p.entity_key, p.event_time, p.inputs, o.actual
from outcomes o join predictions p on p.requested_at = o.requested_at and p.seq = o.prediction_seq
where p.use_case = :use_case and not p.shadow and not p.superseded
  and (p.seq > :predictions or o.label_seq > :labels)
order by o.label_seq, p.seq
"""
"""Each prediction in force with the label in force, when one of the two is new to us."""
CLOCK = "select predictions_seq, labels_seq from label_clock where use_case = :use_case"


class SqlSource:
    """Rows of a query above the cursor, in its order.

    The border is read again each time, together with the lag before it when the cursor is a time: rows that
    commit late, or share the border's value, would be lost otherwise. What was seen before is the same bytes
    (no arrival) or duplicates. Rows whose cursor is null have no place in the order: they are an arrival of
    their own, looked at each time.
    """

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool)
        self._spooled: dict[str, IO[bytes]] = {}

    def arrivals(self, table: Table, now: datetime, last: str | None = None) -> Iterable[Arrival]:
        """The rows behind the cursor, and those without one; nothing where there are none."""
        source = table.source
        if not isinstance(source, Sql):
            raise BadUseCase(f"table {table.name}: a query is declared by a source of kind sql")
        since = None if last is None else json.loads(last)["cursor"]
        asked = sa.select(sa.text("*")).select_from(sa.text(f"({source.query}) as asked"))
        cursor: sa.ColumnClause[Any] = sa.column(source.cursor)
        order = [cursor, *(sa.column(name) for name in table.key)]
        without = asked.where(cursor.is_(None)).order_by(*order[1:])
        yield from self._offer(f"{table.name}-without-{source.cursor}.jsonl", without, source.cursor, since)
        above = asked.where(cursor.is_not(None)).order_by(*order)
        if since is not None:
            above = above.where(cursor >= sa.literal(_border(since, source.lag)))
        yield from self._offer(f"{table.name}.jsonl", above, source.cursor, since)

    def open(self, table: Table, arrival: Arrival) -> BinaryIO:
        """The rows as JSON Lines."""
        return self._spooled.pop(arrival.name)  # type: ignore[return-value]

    def _offer(self, name: str, query: "sa.Select[Any]", cursor: str, since: Any) -> Iterator[Arrival]:
        with tempfile.TemporaryFile() as spooled:
            newest = since
            with _translated(), self._engine.connect() as connection:
                streamed = connection.execution_options(stream_results=True, yield_per=FETCH).execute(query)
                for row in streamed.mappings():
                    spooled.write(_line(dict(row)))
                    newest = since if row[cursor] is None else _kept(row[cursor])
            yield from _arrival(self._spooled, name, spooled, newest)


class AnswersSource:
    """Answered predictions of the use case with their labels, from the platform's own database.

    The label clock says in one transaction how far predictions and labels are joined; that pair is the
    cursor. An outcome is new when its prediction or its label in force lies above it, so nothing is missed
    when a label comes before its prediction, or a record supersedes another.
    """

    def __init__(self, url: str, use_case: UseCase) -> None:
        address = sa.make_url(url).set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(address, hide_parameters=True, poolclass=sa.NullPool)
        self._use_case = use_case
        self._spooled: dict[str, IO[bytes]] = {}

    def arrivals(self, table: Table, now: datetime, last: str | None = None) -> Iterable[Arrival]:
        """The answers that were joined since; nothing where there are none."""
        known = [0, 0] if last is None else json.loads(last)["cursor"]
        asked = {"use_case": self._use_case.name, "predictions": known[0], "labels": known[1]}
        repeatable = self._engine.execution_options(isolation_level="REPEATABLE READ")
        with tempfile.TemporaryFile() as spooled:
            with _translated(), repeatable.connect() as connection:
                clock = connection.execute(sa.text(CLOCK), asked).one_or_none()
                streamed = connection.execution_options(stream_results=True, yield_per=FETCH)
                for row in streamed.execute(sa.text(ANSWERED), asked).mappings():
                    spooled.write(_line(self._row(dict(row))))
            cursor = known if clock is None else list(clock)
            yield from _arrival(self._spooled, f"{table.name}.jsonl", spooled, cursor)

    def open(self, table: Table, arrival: Arrival) -> BinaryIO:
        """The rows as JSON Lines."""
        return self._spooled.pop(arrival.name)  # type: ignore[return-value]

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs by their names; an entity that nobody named is the prediction itself."""
        return {
            **{field.name: row["inputs"].get(field.name) for field in self._use_case.inputs},
            "prediction_id": row["prediction_id"],
            self._use_case.entity: row["entity_key"] or row["prediction_id"],
            "event_time": row["event_time"],
            self._use_case.target: row["actual"],
        }


@contextmanager
def _translated() -> Generator[None]:
    """Vendor errors as ours; a URL is in none of them."""
    try:
        yield
    except OperationalError as away:
        raise ServiceAway(f"the source's database does not answer: {str(away.orig).strip()[:200]}") from away
    except SQLAlchemyError as wrong:
        raise BadUseCase(f"the source's query cannot be run: {str(wrong).splitlines()[0][:200]}") from wrong


def _arrival(spooled: dict[str, IO[bytes]], name: str, rows: IO[bytes], cursor: Any) -> Iterator[Arrival]:
    """Offer the rows while the file is open; the stamp differs when the rows do, also at the same cursor."""
    if not rows.tell():
        return
    rows.seek(0)
    digest = hashlib.file_digest(rows, "sha256").hexdigest()  # type: ignore[arg-type]
    rows.seek(0)
    spooled[name] = rows
    yield Arrival(name=name, stamp=json.dumps({"cursor": cursor, "rows": digest}))


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps({name: _json(value) for name, value in row.items()}, ensure_ascii=False) + "\n").encode()


def _json(value: Any) -> Any:
    """Times as RFC 3339 (without an offset where the database has none), exact numbers as their digits."""
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)


def _kept(value: Any) -> list[Any]:
    """A cursor's kind and value as JSON: what it was compared as, it is compared as the next time."""
    kinds = ((datetime, "datetime"), (date, "date"), (Decimal, "decimal"))
    kind = next((word for type_, word in kinds if isinstance(value, type_)), "as it is")
    return [kind, _json(value)]


def _border(since: list[Any], lag: timedelta) -> Any:
    """Where to read from: a time less the lag, also where the database keeps times as text."""
    kind, value = since
    if kind == "decimal":
        return Decimal(value)
    if kind == "datetime":
        return datetime.fromisoformat(value) - lag
    if kind == "date":
        return (datetime.fromisoformat(value) - lag).date()
    if not isinstance(value, str) or not TIME.match(value):
        return value
    back = (datetime.fromisoformat(value) - lag).isoformat(value[10:11] or " ")
    return back[: max(len(value), 10)]
