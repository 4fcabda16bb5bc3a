"""Validate: judge each batch by its suite, row by row and as a whole."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipelines import cells, lake
from pipelines.lake import dtype
from pipelines.records import Arrivals, Batch, CheckedArrivals, CheckedBatch, Told
from pipelines.spec import Answers, Field, Table, UseCase
from pipelines.steps.ahead import ahead
from pipelines.steps.judged import SOUND, keep_broken, keep_good, new_folder
from pipelines.tools import Content, Finding, Piece, Tools, Unreadable, Validator

log = logging.getLogger(__name__)
CHANGED_TYPE = 0.5
"""Share of a column's cells that do not read as its type, from which on the batch as a whole is refused."""
AT_ONCE = 2
"""Batches in memory: while the rules of one are asked another is read."""
MOST_REASONS = 20
FIRST = 5
"""How many rows of a reason are named."""
EMPTY = "the row is empty: separators and nothing between them"


def validate(tools: Tools, use_case: UseCase, arrivals: Arrivals, now: datetime) -> CheckedArrivals:
    """Give every batch its verdict, two at a time; nothing is published yet."""
    table = use_case.table(arrivals.table)
    checked = tuple(ahead(lambda batch: _judge(tools, table, batch, now), arrivals.batches, AT_ONCE))
    for each in checked:
        log.info(
            "table=%s batch=%d rows=%d broken=%d failed=%s warnings=%s",
            table.name, each.batch.number, each.batch.rows, each.broken, each.failed, list(each.warnings),
        )  # fmt: skip
    return CheckedArrivals(table=table.name, batches=checked)


def without(tools: Tools, table: Table, names: Sequence[str]) -> tuple[Tools, Table]:
    """Judges and declaration for rows that lack these columns, from the same suite: a label, when serving."""
    kept = tuple(column for column in table.columns if column.name not in names)
    changed = replace(tools, validator=_Without(tools.validator, tuple(names)))
    key = tuple(name for name in table.key if name not in names)
    return changed, table.model_copy(update={"columns": kept, "key": key})


class _Without(NamedTuple):
    """A validator that leaves out rules about some columns."""

    whole: Validator
    names: tuple[str, ...]

    def validate(
        self,
        rows: pl.DataFrame,
        suite: Path,
        parameters: Mapping[str, str],
        *,
        without: Sequence[str] = (),
        page: Path | None = None,
    ) -> tuple[Finding, ...]:
        return self.whole.validate(rows, suite, parameters, without=(*self.names, *without), page=page)


def suite_digest(suite: Path) -> str:
    """SHA-256 of the suite's file."""
    return hashlib.sha256(suite.read_bytes()).hexdigest()


def _judge(tools: Tools, table: Table, batch: Batch, now: datetime) -> CheckedBatch:
    suite = tools.found.expectations / f"{table.name}.json"
    at = lake.TableAt(tools.tables_at, table)
    digest = suite_digest(suite)
    content = _read(tools, table, batch)
    if isinstance(content, Unreadable):
        return CheckedBatch(
            batch=batch, uri="", suite=digest, failed=content.reason, broken=batch.rows, warnings=()
        )
    page = tools.docs / table.name / f"{batch.number:08}.html"
    judged = judge(tools, table, content, suite, batch.received_at, now, page, every_raw=False)
    folder = new_folder(at, batch)
    if not judged.failed:
        keep_good(tools.tables, at, batch, digest, judged.rows.filter(SOUND), folder)
    broken = judged.rows if judged.failed else judged.rows.filter(~SOUND)
    broken = pl.concat([broken, torn_rows(content, broken)], how="vertical").sort("_row")
    keep_broken(broken, folder)
    reasons = told_of(broken)
    _tell(table, batch, reasons, page)
    return CheckedBatch(
        batch=batch,
        uri=str(folder),
        suite=digest,
        failed="; ".join(judged.failed) or None,
        broken=broken.filter(~SOUND).height,
        warnings=judged.warnings,
        reasons=reasons,
        page=page.absolute().as_uri(),
    )


def _read(tools: Tools, table: Table, batch: Batch) -> Content | Unreadable:
    if batch.unreadable is not None:
        return Unreadable(batch.unreadable, batch.rows)
    piece = None
    if batch.start is not None and batch.stop is not None:
        piece = Piece(batch.start, batch.stop, batch.first, batch.rows)
    return tools.reader.read(tools.landing / batch.digest, table, piece)


class Judged(NamedTuple):
    """Rows in their types with `_raw` and `_reasons`, and what is wrong with them as a whole."""

    rows: pl.DataFrame
    failed: tuple[str, ...]
    warnings: tuple[str, ...]


def judge(
    tools: Tools,
    table: Table,
    content: Content,
    suite: Path,
    received_at: datetime,
    now: datetime,
    page: Path | None = None,
    *,
    every_raw: bool = True,
) -> Judged:
    """Judge rows by the declaration and by the suite.

    Without `every_raw` a good row of a good batch has no `_raw`: nobody will ask how it came.
    """
    rows = _typed(content, table)
    given = rows.drop("_row", "_reasons").with_columns(received_at=pl.lit(received_at))
    parameters = {"fresh_after": (now - table.max_age).isoformat(), "now": now.isoformat()}
    findings = tools.validator.validate(given, suite, parameters, page=page)
    missing = absent(content.rows, table)
    told = [f.reason for f in findings if f.severity == "critical" and (f.asked or not missing)]
    failed = (*missing, *_changed(rows, table), *told)
    judged = with_reasons(rows, findings)
    asked = (judged["_reasons"].list.len() > 0) | (every_raw or bool(failed))
    whole = judged.with_columns(_raw=_raw(content, asked)).select(*given.columns[:-1], "_row", "_raw", "_reasons")
    return Judged(whole, failed, tuple(_warnings(findings)))


def told_of(rows: pl.DataFrame) -> tuple[Told, ...]:
    """The reasons of judged rows, the most frequent first."""
    broken = rows.select("_row", reason="_reasons").explode("reason").drop_nulls()
    by_reason = broken.group_by("reason").agg(pl.len(), first=pl.col("_row").sort().head(FIRST))
    ordered = by_reason.sort(["len", "reason"], descending=[True, False]).head(MOST_REASONS)
    return tuple(
        Told(reason=reason, rows=count, first=tuple(first)) for reason, count, first in ordered.iter_rows()
    )


def _tell(table: Table, batch: Batch, reasons: tuple[Told, ...], page: Path) -> None:
    for one in reasons:
        log.warning(
            "table=%s file=%s %d rows: %s (rows %s)", table.name, batch.file, one.rows, one.reason, one.places
        )
    log.info("table=%s batch=%d page=%s", table.name, batch.number, page.absolute().as_uri())


def _warnings(findings: tuple[Finding, ...]) -> list[str]:
    batch = [f.reason for f in findings if f.rows is None and f.severity != "critical"]
    rows = [f"{f.reason}: {len(f.rows)} rows" for f in findings if f.rows and f.severity == "info"]
    return batch + rows


def zone_of(table: Table) -> str:
    """The zone of times that the source writes without an offset."""
    return "UTC" if isinstance(table.source, Answers) else table.source.zone


def _typed(content: Content, table: Table) -> pl.DataFrame:
    """Declared columns in their types, cells that are no value in `_reasons`."""
    zone, rows = zone_of(table), content.rows
    present = [column for column in table.columns if column.name in rows.columns]
    absent = [column for column in table.columns if column.name not in rows.columns]
    typed = rows.select(
        "_row",
        *(cells.values(rows, column, zone).alias(column.name) for column in present),
        *(pl.lit(None, dtype(column)).alias(column.name) for column in absent if column.optional),
    )
    return typed.with_columns(_reasons=_faults(content, typed, present, table))


def _faults(content: Content, typed: pl.DataFrame, present: list[Field], table: Table) -> pl.Series:
    """Why cells cannot be, (n,) lists; words are made only for the rows that need some."""
    suspect = content.rows.select(_is_empty(content.rows)).to_series()
    for column in present:
        lost = typed[column.name].is_null()
        suspect |= lost if column.name in table.key else lost & content.rows[column.name].is_not_null()
    if not suspect.any():
        return pl.repeat([], len(typed), dtype=pl.List(pl.String), eager=True)
    rows = content.text()
    words = pl.concat_list([_fault(column, table, zone_of(table)) for column in present]).list.drop_nulls()
    told = pl.when(_is_empty(rows)).then(pl.concat_list(pl.lit(EMPTY))).otherwise(words)
    return _spread(rows.filter(suspect).select(told).to_series(), suspect, [])


def _is_empty(rows: pl.DataFrame) -> pl.Expr:
    return pl.all_horizontal(pl.col(name).is_null() for name in rows.columns if name != "_row")


def _spread(some: pl.Series, where: pl.Series, other: object) -> pl.Series:
    """Values where they belong, another one everywhere else."""
    places = pl.when(where).then(where.cum_sum()).otherwise(0)
    both = pl.concat([pl.Series([other], dtype=some.dtype), some], rechunk=True)
    return both.gather(pl.select(places).to_series())


def _raw(content: Content, where: pl.Series) -> pl.Series:
    """Some rows as they came, as JSON text; null for the others."""
    if not where.any():
        return pl.repeat(None, len(where), dtype=pl.String, eager=True)
    rows = content.text()
    names = [name for name in rows.columns if name != "_row"]
    return _spread(rows.filter(where).select(pl.struct(names).struct.json_encode()).to_series(), where, None)


def _fault(column: Field, table: Table, zone: str) -> pl.Expr:
    """Why a cell cannot be: it is no value of its type, or a part of the key is missing."""
    missing = pl.col(column.name).is_null() if column.name in table.key else pl.lit(False)
    return pl.when(missing).then(pl.lit(f"{column.name} is missing")).otherwise(cells.fault(column, zone))


def absent(raw: pl.DataFrame, table: Table) -> list[str]:
    """Columns that are not there; rules about them cannot be asked, and need no word of their own."""
    needed = [each.name for each in table.columns if not each.optional]
    return [f"no column {name}" for name in needed if name not in raw.columns]


def _changed(rows: pl.DataFrame, table: Table) -> list[str]:
    """Columns whose cells are mostly no values of the declared type."""
    told = []
    faulty = rows["_reasons"].filter(rows["_reasons"].list.len() > 0)
    for column in table.columns:
        wrong = faulty.list.eval(pl.element().str.starts_with(f"{column.name}: ")).list.any().sum()
        if rows.height and wrong / rows.height > CHANGED_TYPE:
            told.append(f"{column.name} changed its type: {wrong} of {rows.height} cells are not {column.type}")
    return told


def with_reasons(rows: pl.DataFrame, findings: tuple[Finding, ...]) -> pl.DataFrame:
    """Add the suite's reasons; a row whose cells are no values keeps that reason alone: they read as null."""
    sound = rows.select("_reasons").with_row_index("_place").filter(pl.col("_reasons").list.len() == 0)["_place"]
    broken = [
        pl.DataFrame({"_place": finding.rows, "_told": finding.reason}, {"_place": pl.UInt32, "_told": pl.String})
        for finding in findings
        if finding.rows and finding.severity != "info"
    ]
    if not broken:
        return rows
    told = pl.concat(broken).group_by("_place", maintain_order=True).agg("_told")
    told = told.join(sound.to_frame(), on="_place", how="semi")
    places = np.arange(len(rows))
    places[told["_place"].to_numpy()] = len(rows) + np.arange(len(told))
    both = pl.concat([rows["_reasons"], told["_told"]], rechunk=True)  # of two chunks lists are gathered slowly
    return rows.with_columns(_reasons=both.gather(places))


def torn_rows(content: Content, like: pl.DataFrame) -> pl.DataFrame:
    """Lines that are no rows, in the columns of judged ones."""
    rows = [
        {"_row": line.row, "_raw": json.dumps({"line": line.text}), "_reasons": [line.reason]}
        for line in content.torn
    ]
    return pl.DataFrame(rows, schema=like.schema)
