"""Hand over: what newly published rows say of entities goes to the label clock."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import polars as pl

from pipelines import lake
from pipelines.errors import BadUseCase
from pipelines.records import Ledger
from pipelines.spec import UseCase
from pipelines.tools import EntityLabel, Tools

log = logging.getLogger(__name__)
REQUIRED = {"entity", "actual"}
Tell = Callable[[pl.DataFrame], pl.DataFrame]


def hand_over(tools: Tools, use_case: UseCase, ledger: Ledger) -> Ledger:
    """Keep the labels of every batch published since the last time, each batch once; the ledger goes through."""
    tell = use_case.labels.get(ledger.table)
    if tell is not None:
        at = lake.TableAt(tools.tables_at, use_case.table(ledger.table))
        _batches(tools, use_case, tell, at)
        _replays(tools, use_case, tell, at)
    return ledger


def _batches(tools: Tools, use_case: UseCase, tell: Tell, at: lake.TableAt) -> None:
    table = at.table.name
    done = tools.tables.committed(at.published, lake.PUBLISH)
    since = tools.labels.handed(use_case.name, table)
    for batch in range(since + 1, done + 1):
        rows = _asked_about(at, tools.tables.where(at.published, "_batch", batch))
        labels = list(_labels(tell, at, rows))
        tools.labels.hand(use_case.name, table, batch, labels)
        log.info("table=%s batch=%d labels=%d", table, batch, len(labels))


def _replays(tools: Tools, use_case: UseCase, tell: Tell, at: lake.TableAt) -> None:
    """Rows that came back from quarantine bear the number of a batch that was handed over long ago."""
    name = f"{at.table.name}/{lake.REPLAY}"
    done = tools.tables.committed(at.published, lake.REPLAY)
    for number in range(tools.labels.handed(use_case.name, name) + 1, done + 1):
        rows = _asked_about(at, pl.scan_parquet(lake.replay_file(at, number)))
        labels = list(_labels(tell, at, rows))
        tools.labels.hand(use_case.name, name, number, labels)
        log.info("table=%s replay=%d labels=%d", at.table.name, number, len(labels))


def _asked_about(at: lake.TableAt, rows: pl.LazyFrame) -> pl.DataFrame:
    """Of published rows what their table declares, and when and as what they arrived."""
    wanted = {*(column.name for column in at.table.columns), "_row", "_revision", "_received_at"}
    return rows.select(name for name in rows.collect_schema() if name in wanted).collect()


def _labels(tell: Tell, at: lake.TableAt, rows: pl.DataFrame) -> Iterator[EntityLabel]:
    """Of each key the newest row; the revisions one by one, because a later one is a newer observation."""
    newest = lake.last_revisions(at, rows).sort("_revision", maintain_order=True)
    for (revision,), some in newest.partition_by("_revision", as_dict=True, maintain_order=True).items():
        # several revisions may arrive in one run of the flow, at one time: a microsecond keeps their order
        arrived = some["_received_at"][0] + timedelta(microseconds=int(revision) - 1)
        yield from _told(tell, at.table.name, some, arrived)


def _told(tell: Tell, table: str, rows: pl.DataFrame, arrived: datetime) -> Iterator[EntityLabel]:
    told = tell(rows.sort("_row"))
    if told.is_empty():
        return
    if not set(told.columns) >= REQUIRED:
        raise BadUseCase(f"labels of {table}: columns {sorted(REQUIRED)} are needed, not {told.columns}")
    actual = told["actual"].cast(pl.Float64)
    known = told.filter(told["entity"].is_not_null() & actual.is_finite().fill_null(False))
    for row in known.iter_rows(named=True):
        yield EntityLabel(
            key=str(row["entity"]),
            actual=float(row["actual"]),
            event_time=_utc(row.get("event_time")),
            observed_at=_utc(row.get("observed_at")) or arrived,
            received_at=arrived,
        )


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
