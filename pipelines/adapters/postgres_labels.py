"""PostgreSQL: labels that tables tell, beside those that clients send."""

from collections.abc import Sequence

from pipelines.adapters.postgres_book import connected
from pipelines.predictions import tables
from pipelines.tools import EntityLabel

_HAND = """
insert into hand_overs (use_case, table_name, batch) values (%s, %s, %s)
on conflict (use_case, table_name) do update set batch = excluded.batch, handed_at = now()
where hand_overs.batch < excluded.batch
"""


class PostgresLabelBook:
    """`LabelBook` in the prediction log."""

    def __init__(self, url: str) -> None:
        self._url = url

    def handed(self, use_case: str, table: str) -> int:
        """The last batch."""
        with connected(self._url) as connection:
            row = connection.execute(
                "select batch from hand_overs where use_case = %s and table_name = %s", (use_case, table)
            ).fetchone()
        return int(row[0]) if row else 0

    def hand(self, use_case: str, table: str, batch: int, labels: Sequence[EntityLabel]) -> None:
        """In one transaction, in a turn of the log's writers."""
        rows = [
            (
                use_case, None, each.key, each.event_time, each.actual, each.observed_at, each.received_at,
                f"table:{table}",
            )
            for each in labels
        ]  # fmt: skip
        with connected(self._url) as connection, tables.turn(connection):
            if connection.execute(_HAND, (use_case, table, batch)).rowcount:
                tables.append_labels(connection, rows)
