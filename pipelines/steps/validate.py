"""Validate: judge each batch by its suite, row by row and as a whole."""

import hashlib
import json
import logging
from datetime import datetime
from pathlib import Path

import polars as pl

from pipelines import lake
from pipelines.lake import dtype
from pipelines.records import Arrivals, Batch, CheckedArrivals, CheckedBatch
from pipelines.spec import Field, Table, UseCase
from pipelines.tools import Content, Finding, Tools, Unreadable

log = logging.getLogger(__name__)
CHANGED_TYPE = 0.5
"""Share of a column's cells that do not read as its type, from which on the batch as a whole is refused."""
MOST_REASONS = 20
EXACT = 2.0**53
"""Up to here a float holds every whole number."""
WORDS = {"number": "a number", "integer": "a whole number"}


def validate(tools: Tools, use_case: UseCase, arrivals: Arrivals, now: datetime) -> CheckedArrivals:
    """Give every batch its verdict; nothing is published yet."""
    table = use_case.table(arrivals.table)
    checked = tuple(_judge(tools, table, batch, now) for batch in arrivals.batches)
    for each in checked:
        log.info(
            "table=%s batch=%d rows=%d broken=%d failed=%s warnings=%s",
            table.name, each.batch.number, each.batch.rows, each.broken, each.failed, list(each.warnings),
        )  # fmt: skip
    return CheckedArrivals(table=table.name, batches=checked)


def suite_digest(suite: Path) -> str:
    """SHA-256 of the suite's file."""
    return hashlib.sha256(suite.read_bytes()).hexdigest()


def _judge(tools: Tools, table: Table, batch: Batch, now: datetime) -> CheckedBatch:
    suite = tools.found.expectations / f"{table.name}.json"
    at = lake.TableAt(tools.tables_at, table)
    uri = Path(at.checked) / f"{batch.number:08}.parquet"
    digest = suite_digest(suite)
    content = tools.read(tools.landing / batch.digest, table)
    if isinstance(content, Unreadable):
        return CheckedBatch(
            batch=batch, uri="", suite=digest, failed=content.reason, broken=batch.rows, warnings=()
        )
    rows = _typed(content.rows, table)
    findings = _findings(tools, table, rows, suite, batch, now)
    judged = _with_reasons(rows, findings)
    whole = pl.concat([judged, _ragged(content, judged)], how="vertical").sort("_row")
    _keep(whole, uri)
    _tell(table, batch, whole)
    failed = [
        *_wrong_columns(content.rows, rows, table),
        *(f.reason for f in findings if f.severity == "critical"),
    ]
    return CheckedBatch(
        batch=batch,
        uri=str(uri),
        suite=digest,
        failed="; ".join(failed) or None,
        broken=whole.filter(pl.col("_reasons").list.len() > 0).height,
        warnings=tuple(_warnings(findings)),
    )


def _keep(rows: pl.DataFrame, uri: Path) -> None:
    """The file gets its name when it is whole."""
    uri.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(uri.with_suffix(".partial"))
    uri.with_suffix(".partial").replace(uri)


def _tell(table: Table, batch: Batch, rows: pl.DataFrame) -> None:
    """The reasons, the most frequent first, each with its first rows: enough to mend the source."""
    broken = rows.select("_row", reason="_reasons").explode("reason").drop_nulls()
    by_reason = broken.group_by("reason").agg(pl.len(), first=pl.col("_row").head(3)).sort("len", descending=True)
    for reason, count, first in by_reason.head(MOST_REASONS).iter_rows():
        log.warning("table=%s file=%s %d rows: %s (rows %s …)", table.name, batch.file, count, reason, first)


def _findings(
    tools: Tools, table: Table, rows: pl.DataFrame, suite: Path, batch: Batch, now: datetime
) -> tuple[Finding, ...]:
    given = rows.drop("_row", "_raw", "_reasons").with_columns(received_at=pl.lit(batch.received_at))
    return tools.validator.validate(given, suite, {"fresh_after": (now - table.max_age).isoformat()})


def _warnings(findings: tuple[Finding, ...]) -> list[str]:
    batch = [f.reason for f in findings if f.rows is None and f.severity != "critical"]
    rows = [f"{f.reason}: {len(f.rows)} rows" for f in findings if f.rows and f.severity == "info"]
    return batch + rows


def _typed(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Declared columns in their types, the row as it came in `_raw`, cells that are no value in `_reasons`."""
    present = [column for column in table.columns if column.name in rows.columns]
    absent = [column for column in table.columns if column.name not in rows.columns]
    names = [name for name in rows.columns if name != "_row"]
    return rows.select(
        "_row",
        *(_cast(column).alias(column.name) for column in present),
        *(pl.lit(None, dtype(column)).alias(column.name) for column in absent if column.optional),
        _raw=pl.struct(names).struct.json_encode(),
        _reasons=pl.concat_list([_fault(column, table) for column in present]).list.drop_nulls(),
    )


def _cast(column: Field) -> pl.Expr:
    """Text as its type, null where it is none; whole numbers keep all their digits, `29.0` is one too."""
    cell = pl.col(column.name)
    if column.type == "text":
        return cell
    number = cell.str.strip_chars().cast(pl.Float64, strict=False)
    number = pl.when(number.is_finite()).then(number)
    if column.type == "number":
        return number
    written_as_float = pl.when((number == number.round()) & (number.abs() < EXACT)).then(number)
    return pl.coalesce(cell.str.strip_chars().cast(pl.Int64, strict=False), written_as_float.cast(pl.Int64))


def _fault(column: Field, table: Table) -> pl.Expr:
    """Why a cell cannot be: it is no value of its type, or a part of the key is missing."""
    cell = pl.col(column.name)
    missing = cell.is_null() if column.name in table.key else pl.lit(False)
    if column.type == "text":
        return pl.when(missing).then(pl.lit(f"{column.name} is missing"))
    told = pl.format("{}: {} is not {}", pl.lit(column.name), cell, pl.lit(WORDS[column.type]))
    no_value = cell.is_not_null() & _cast(column).is_null()
    return pl.when(missing).then(pl.lit(f"{column.name} is missing")).when(no_value).then(told)


def _wrong_columns(raw: pl.DataFrame, rows: pl.DataFrame, table: Table) -> list[str]:
    """Columns that are not there, and those whose cells are mostly no values of the declared type."""
    told = [
        f"no column {each.name}" for each in table.columns if each.name not in raw.columns and not each.optional
    ]
    for column in table.columns:
        wrong = rows["_reasons"].list.eval(pl.element().str.starts_with(f"{column.name}: ")).list.any().sum()
        if rows.height and wrong / rows.height > CHANGED_TYPE:
            told.append(f"{column.name} changed its type: {wrong} of {rows.height} cells are not {column.type}")
    return told


def _with_reasons(rows: pl.DataFrame, findings: tuple[Finding, ...]) -> pl.DataFrame:
    """Add the suite's reasons; a row whose cells are no values keeps that reason alone: they read as null."""
    sound = rows["_reasons"].list.len() == 0
    broken = [
        {"_row": rows["_row"][row], "_told": finding.reason}
        for finding in findings
        if finding.rows is not None and finding.severity != "info"
        for row in finding.rows
        if sound[row]
    ]
    told = pl.DataFrame(broken, schema={"_row": pl.Int64, "_told": pl.String})
    by_row = told.group_by("_row", maintain_order=True).agg("_told")
    joined = rows.join(by_row, on="_row", how="left", maintain_order="left")
    both = pl.col("_reasons").list.concat(pl.col("_told").fill_null(pl.lit([], pl.List(pl.String))))
    return joined.with_columns(_reasons=both).drop("_told")


def _ragged(content: Content, like: pl.DataFrame) -> pl.DataFrame:
    rows = [
        {
            "_row": line.row,
            "_raw": json.dumps({"line": line.text}),
            "_reasons": [f"the line has {line.cells} cells, the header {line.expected}"],
        }
        for line in content.ragged
    ]
    return pl.DataFrame(rows, schema=like.schema)
