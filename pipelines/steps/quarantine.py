"""Quarantine: rows judged anew after a fix, or given up; each leaves it once.

A replay takes a number of its own. The rows to publish are written to a file, `aside` then says that they
left the quarantine, `published` bears them last. Killed in between, the next replay or publish finishes it.
"""

import json
import logging
from datetime import datetime
from typing import NamedTuple

import polars as pl

from pipelines import cells, lake
from pipelines.known import known
from pipelines.records import Batch, Chosen, Discarded, Replayed
from pipelines.spec import Table, UseCase
from pipelines.steps.judged import nothing
from pipelines.steps.publish import ASIDE, conserve, finish_replay, revise
from pipelines.steps.validate import Judged, judge, suite_digest, torn_rows
from pipelines.tools import Content, Cut, Piece, Tools, Unreadable

log = logging.getLogger(__name__)
PLATFORM = "touchline"
OVERTAKEN = "a later row of the same key is in force"
NO_ROWS = "lines of the file that are no rows (its header); counted as long as it could not be read"
PLACE = ["batch", "row"]


class Regained(NamedTuple):
    """Quarantined rows after their second judgement."""

    good: pl.DataFrame
    """Typed rows with `batch`, `row`, `file`, `digest`, `_raw`."""
    aside: pl.DataFrame
    """Entries that go with them, as `ASIDE` names the columns."""


def replay(
    tools: Tools, use_case: UseCase, table: str, chosen: Chosen, fixed: pl.DataFrame | None, now: datetime
) -> Replayed:
    """Judge quarantined rows by today's suite and declaration, as they came or as `fixed` corrects them.

    `fixed` has text cells and names each row by `_batch` and `_row`. Good rows are published as of `now`,
    with the file and row that they came from. A row as it came does not overtake a later one of its key; a
    corrected row does: a person knew better.
    """
    at = lake.TableAt(tools.tables_at, use_case.table(table))
    with tools.locks.hold(f"{use_case.name}:publish"):
        finished = finish_replay(tools, at)
        entries, unknown = _meant(lake.waiting(tools.tables, at), chosen, fixed)
        regained = _regain(tools, at, entries, now)
        good = _overtaken(tools, at, regained.good, corrected=fixed is not None)
        published = _settle(tools, at, good, regained.aside, now)
        lake.keep_count(tools.tables, at)
        ledger = lake.ledger(tools.tables, at)
        conserve(ledger)
        newest = tools.tables.version(at.published)
    rows = pl.concat([finished, published])
    older = [
        each for each in tools.evidence.versions(use_case.name) if each.snapshot.versions.get(table, -1) < newest
    ]
    told = Replayed(
        table=table,
        published=rows.filter(pl.col("_revision") == 1).height,
        revised=rows.filter(pl.col("_revision") > 1).height,
        duplicate=good.height - published.height,
        broken=ledger.quarantined,
        unknown=unknown,
        trained_without=tuple(str(each.version) for each in older) if rows.height else (),
    )
    log.info("replayed %s", told.model_dump())
    return told


def discard(
    tools: Tools, use_case: UseCase, table: str, chosen: Chosen, by: str, why: str, now: datetime
) -> Discarded:
    """Give quarantined rows up; who did it and why is kept beside them."""
    at = lake.TableAt(tools.tables_at, use_case.table(table))
    with tools.locks.hold(f"{use_case.name}:publish"):
        finish_replay(tools, at)
        entries, _ = _meant(lake.waiting(tools.tables, at), chosen, None)
        entries = entries.filter("meant") if len(entries) else entries
        if entries.is_empty():
            return Discarded(table=table, rows=0, by=by, why=why)
        given_up = _entries(entries, lake.DISCARDED, now, [why], by)
        _commit(tools, at, given_up, nothing(at))
        conserve(lake.ledger(tools.tables, at))
    told = Discarded(table=table, rows=int(given_up["count"].sum()), by=by, why=why)
    log.info("discarded %s", told.model_dump())
    return told


def chosen_of(waiting: pl.DataFrame, chosen: Chosen) -> pl.DataFrame:
    """The entries that are meant."""
    if waiting.is_empty():
        return waiting
    if chosen.batch is not None:
        waiting = waiting.filter(pl.col("batch") == chosen.batch)
    if chosen.reason is not None:
        says = pl.element().str.contains(chosen.reason, literal=True)
        waiting = waiting.filter(pl.col("reasons").list.eval(says).list.any())
    return waiting


def _meant(waiting: pl.DataFrame, chosen: Chosen, fixed: pl.DataFrame | None) -> tuple[pl.DataFrame, int]:
    """Every waiting entry with `meant`, corrected ones with their new cells; corrections that meet no entry."""
    if waiting.is_empty():
        return waiting, 0 if fixed is None else fixed.height
    places = chosen_of(waiting, chosen).select(*PLACE, meant=pl.lit(True))
    marked = waiting.join(places, on=PLACE, how="left", nulls_equal=True).with_columns(
        pl.col("meant").fill_null(False)
    )
    if fixed is None:
        return marked, 0
    names = [name for name in fixed.columns if not name.startswith("_") and name != "line"]
    corrections = fixed.select(
        batch=pl.col("_batch").cast(pl.Int64),
        row=pl.col("_row").cast(pl.Int64),
        fixed=pl.struct(names).struct.json_encode(),
    ).unique(PLACE, keep="last")
    joined = marked.join(corrections, on=PLACE, how="left", maintain_order="left").with_columns(
        meant=pl.col("meant") & pl.col("fixed").is_not_null(), raw=pl.coalesce("fixed", "raw")
    )
    return joined.drop("fixed"), corrections.height - int(joined["meant"].sum())


def _regain(tools: Tools, at: lake.TableAt, entries: pl.DataFrame, now: datetime) -> Regained:
    parts = [Regained(_typed_nothing(at.table), pl.DataFrame(schema=ASIDE))]
    if entries.is_empty():
        return parts[0]
    known = {batch.number: batch for batch in lake.batches(tools.tables, at)}
    refused = _refused_whole(tools, at, known)
    for (number,), group in entries.group_by("batch", maintain_order=True):
        batch = known[int(str(number))]
        if not group["meant"].any():
            continue
        if group["row"].null_count():
            parts.append(_whole(tools, at.table, batch, group.filter(pl.col("row").is_null()), now))
        else:
            parts.append(_rows(tools, at.table, batch, group, now, as_batch=batch.number in refused))
    return Regained(*(pl.concat(each, how="vertical") for each in zip(*parts, strict=True)))


def _refused_whole(tools: Tools, at: lake.TableAt, known: dict[int, Batch]) -> set[int]:
    """Batches of which no row passed: rules about the batch may have refused them."""
    quarantined = tools.tables.scan(at.aside).filter(pl.col("kind") == lake.QUARANTINED)
    counts = quarantined.group_by("batch").agg(pl.col("count").sum()).collect()
    return {number for number, count in counts.iter_rows() if count == known[number].rows}


def _rows(
    tools: Tools, table: Table, batch: Batch, group: pl.DataFrame, now: datetime, *, as_batch: bool
) -> Regained:
    """Rows of one batch; rules about the batch count when they may have refused it, over all that waits."""
    stays = Regained(_typed_nothing(table), pl.DataFrame(schema=ASIDE))
    raw = cells.from_records([_cells(text) for text in group["raw"]])
    judged = _judge(tools, table, Content.of(raw.with_columns(_row=group["row"])), batch, now)
    if judged is None or (judged.failed and as_batch):
        return stays
    meant = group.filter("meant").drop("raw")
    good = _good(judged.rows, table, batch).join(meant.select(PLACE), on=PLACE, how="semi")
    released = meant.join(good.select(*PLACE, raw="_raw"), on=PLACE)
    return Regained(good, _entries(released, lake.RELEASED, now, None, None))


def _whole(tools: Tools, table: Table, batch: Batch, group: pl.DataFrame, now: datetime) -> Regained:
    """A file that could not be read: its rows, when today's reader and declaration make them of it."""
    stays = Regained(_typed_nothing(table), pl.DataFrame(schema=ASIDE))
    content = _content(tools, table, batch)
    judged = None if content is None else _judge(tools, table, content, batch, now)
    if content is None or judged is None or judged.failed:
        return stays
    read, counted = len(content.rows) + len(content.torn), int(group["count"].sum())
    if read > counted:
        log.warning("batch=%d has %d rows, counted as %d lines: drop the file again", batch.number, read, counted)
        return stays
    all_rows = pl.concat([judged.rows, torn_rows(content, judged.rows)])
    broken = all_rows.filter(pl.col("_reasons").list.len() > 0)
    blank = group.with_columns(raw=pl.lit(None, pl.String))
    still = broken.select(row="_row", count=pl.lit(1), reasons="_reasons", raw="_raw").with_columns(
        batch=pl.lit(batch.number),
        file=pl.lit(batch.file),
        digest=pl.lit(batch.digest),
        suite=pl.lit(_suite(tools, table)),
    )
    aside = [
        _entries(blank.with_columns(count=pl.lit(read)), lake.RELEASED, now, None, None),
        _entries(blank.with_columns(count=pl.lit(counted - read)), lake.DISCARDED, now, [NO_ROWS], PLATFORM),
        _entries(still, lake.QUARANTINED, now, None, None),
    ]
    return Regained(_good(all_rows, table, batch), pl.concat(aside))


def _content(tools: Tools, table: Table, batch: Batch) -> Content | None:
    """All rows of a landed file, or of the batch's piece of it; None while it is no table."""
    landed = tools.landing / batch.digest
    found = tools.reader.cut(landed, table, (0, 1), settled=True)
    if isinstance(found, Unreadable):
        return None
    pieces = found.pieces if batch.start is None else _own(found, batch)
    read = [tools.reader.read(landed, table, piece) for piece in pieces]
    if not read or any(isinstance(each, Unreadable) for each in read):
        return None
    contents = [each for each in read if isinstance(each, Content)]
    rows = pl.concat([each.text() for each in contents], how="diagonal")
    return Content.of(rows, (line for each in contents for line in each.torn))


def _own(found: Cut, batch: Batch) -> tuple[Piece, ...]:
    return tuple(piece for piece in found.pieces if piece.start == batch.start)


def _cells(text: str | None) -> dict[str, str | None]:
    """A row as it came; a line that was no row has no cells."""
    found: dict[str, str | None] = json.loads(text or "{}")
    return {} if set(found) == {"line"} else found


def _judge(tools: Tools, table: Table, content: Content, batch: Batch, now: datetime) -> Judged | None:
    """None where a required column is not there at all."""
    required = {column.name for column in table.columns if not column.optional}
    if required - set(content.rows.columns):
        return None
    suite = tools.found.expectations / f"{table.name}.json"
    return judge(tools, table, content, suite, batch.received_at, now)


def _suite(tools: Tools, table: Table) -> str:
    return suite_digest(tools.found.expectations / f"{table.name}.json")


def _good(judged: pl.DataFrame, table: Table, batch: Batch) -> pl.DataFrame:
    good = judged.filter(pl.col("_reasons").list.len() == 0)
    return good.select(
        batch=pl.lit(batch.number, pl.Int64),
        row="_row",
        file=pl.lit(batch.file),
        digest=pl.lit(batch.digest),
        _raw="_raw",
        **{column.name: pl.col(column.name) for column in table.columns},
    )


def _typed_nothing(table: Table) -> pl.DataFrame:
    lineage = {
        "batch": pl.Int64(),
        "row": pl.Int64(),
        "file": pl.String(),
        "digest": pl.String(),
        "_raw": pl.String(),
    }
    return pl.DataFrame(schema={**lineage, **{column.name: lake.dtype(column) for column in table.columns}})


def _overtaken(tools: Tools, at: lake.TableAt, good: pl.DataFrame, *, corrected: bool) -> pl.DataFrame:
    """Add `_hash`, `_revision` and `_same`; a row as it came is `_same` too when a later one is in force."""
    ordered = good.sort(PLACE).with_columns(_row=pl.int_range(pl.len(), dtype=pl.Int64))
    if corrected:
        return revise(tools, at, ordered).with_columns(_late=pl.lit(False))
    newest = known(tools.tables, at, ordered)
    later = (newest["_old_batch"] > ordered["batch"]) | (
        (newest["_old_batch"] == ordered["batch"]) & (newest["_old_row"] > ordered["row"])
    )
    marked = ordered.with_columns(_late=later.fill_null(False))
    in_time = revise(tools, at, marked.filter(~pl.col("_late")))
    late = marked.filter("_late").with_columns(_same=pl.lit(True))
    return pl.concat([in_time, late], how="diagonal")


def _settle(
    tools: Tools, at: lake.TableAt, good: pl.DataFrame, aside: pl.DataFrame, now: datetime
) -> pl.DataFrame:
    """Commit what is regained; the rows that were published."""
    if aside.is_empty():
        return nothing(at)
    again = good.filter("_same").with_columns(
        count=pl.lit(1),
        raw=pl.lit(None),
        suite=pl.lit(None),
        reasons=pl.when("_late").then(pl.concat_list(pl.lit(OVERTAKEN))),
    )
    told = pl.concat([aside, _entries(again, lake.DUPLICATE, now, None, None)])
    published = (
        good
        .filter(~pl.col("_same"))
        .select(
            *(column.name for column in at.table.columns),
            _batch="batch",
            _file="file",
            _digest="digest",
            _row="row",
            _hash="_hash",
            _revision="_revision",
            _received_at=pl.lit(now).dt.cast_time_unit("us"),
            _suite=pl.lit(_suite(tools, at.table)),
        )
        .select(nothing(at).columns)
    )
    _commit(tools, at, told, published)
    return published


def _commit(tools: Tools, at: lake.TableAt, aside: pl.DataFrame, published: pl.DataFrame) -> None:
    number = tools.tables.committed(at.aside, lake.REPLAY) + 1
    lake.keep(lake.replay_file(at, number), published.write_parquet)
    tools.tables.append(at.aside, aside, lake.REPLAY, number)
    finish_replay(tools, at)


def _entries(
    rows: pl.DataFrame, kind: str, now: datetime, reasons: list[str] | None, by: str | None
) -> pl.DataFrame:
    """Lines for `aside`; without reasons of their own they keep those that they bring."""
    told = rows.with_columns(
        kind=pl.lit(kind), received_at=pl.lit(now).dt.cast_time_unit("us"), by=pl.lit(by, pl.String)
    )
    if reasons is not None:
        told = told.with_columns(reasons=pl.lit(reasons))
    return told.select(pl.col(name).cast(kind_of) for name, kind_of in ASIDE.items())
