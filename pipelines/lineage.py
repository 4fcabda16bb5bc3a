"""Law L4: from an answer back to the files and rows that it was learnt from, as it was recorded at creation."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines import lake
from pipelines.adapters.delta import DeltaTables
from pipelines.adapters.postgres_book import PostgresBook, connected
from pipelines.errors import BadRelease, Unrecorded
from pipelines.predictions import lookup
from pipelines.predictions.lookup import Recorded
from pipelines.predictions.retention import dropped_before
from pipelines.rows import column
from pipelines.settings import Home, Settings
from pipelines.spec import Frozen, UseCase
from pipelines.tools import Evidence, Tables, Tools

if TYPE_CHECKING:
    import polars as pl

ROW = ("_file", "_digest", "_row", "_revision", "_batch", "_received_at", "_suite")


class SourceFile(Frozen):
    """One file that the version was trained or judged on."""

    table: str
    file: str
    digest: str
    """SHA-256 of the bytes that arrived."""
    rows: int
    """Of it in the snapshot: in force as of its time."""
    first_row: int
    last_row: int
    received_at: datetime
    kept: bool
    """Whether its bytes still lie in the landing."""


class SourceRow(Frozen):
    """One published row of the entity that was asked for."""

    table: str
    file: str
    digest: str
    row: int
    revision: int
    batch: int
    received_at: datetime
    suite: str
    in_snapshot: bool
    """Whether the version that answered could have learnt from it."""
    replaced: bool
    """Whether the snapshot held a later revision in its stead."""


class Rescored(Frozen):
    """Law L5: the recorded inputs, answered again by the version's own code and its training library."""

    outputs: dict[str, float]
    largest_difference: float
    """Relative to the recorded answer."""
    allowed: float
    same: bool


class Trace(Frozen):
    """One answer, and where it comes from."""

    prediction: Recorded
    others: tuple[Recorded, ...]
    """Records that bear the same id: superseded ones and shadows, the newest first."""
    evidence: Evidence
    bento_agrees: bool
    """Whether the record was made by the bento that was built from this version."""
    snapshot_kept: bool
    """Whether the manifest says today what the evidence says."""
    files: tuple[SourceFile, ...]
    rows: tuple[SourceRow, ...]
    """Of its entity, in every table that bears it; none where the request named no entity."""
    rescored: Rescored | None = None


def trace(settings: Settings, use_cases: dict[str, UseCase], name: str) -> Trace:
    """Follow one id; Unrecorded where the log does not hold it, BadRelease where its version is not recorded."""
    with connected(settings.database) as connection:
        found = lookup.find(connection, name, list(use_cases))
        if not found:
            raise Unrecorded(_missing(name, dropped_before(connection)))
    ordered = sorted(found, key=lambda one: (one.superseded, one.shadow))  # stable: the newest stay first
    answer = ordered[0]
    evidence = PostgresBook(settings.database).by_version(answer.use_case, answer.model_version)
    if evidence is None:
        raise BadRelease(f"{name}: version {answer.model_version} of {answer.use_case} has no evidence here")
    tables, use_case = DeltaTables(), use_cases[answer.use_case]
    return Trace(
        prediction=answer,
        others=tuple(ordered[1:]),
        evidence=evidence,
        bento_agrees=answer.bento_digest == evidence.bento_digest,
        snapshot_kept=_is_kept(settings.at, evidence),
        files=tuple(_files(tables, settings.at, use_case, evidence)),
        rows=tuple(_rows_of(tables, settings.at, use_case, evidence, answer.entity_key)),
    )


def rescore(tools: Tools, use_case: UseCase, traced: Trace) -> Rescored:
    """Answer the recorded inputs again, offline, in the code that the version carries."""
    answer = traced.prediction
    columns = {field.name: column(field, [answer.inputs.get(field.name)]) for field in use_case.inputs}
    told = tools.scorer.offline(tools.tracker.folder(traced.evidence.run_id), columns)
    outputs = {name: float(values[0]) for name, values in told.items()}
    worst = max(_difference(outputs.get(name, np.nan), value) for name, value in answer.outputs.items())
    return Rescored(
        outputs=outputs, largest_difference=worst, allowed=use_case.parity, same=worst <= use_case.parity
    )


def training_rows(
    settings: Settings, use_case: UseCase, evidence: Evidence
) -> "Iterator[tuple[str, pl.DataFrame]]":
    """Every row of the snapshot by table: its key and where it came from."""
    for table in use_case.tables:
        at = _at(settings.at, use_case, table.name)
        version = evidence.snapshot.versions[table.name]
        rows = lake.in_force(DeltaTables(), at, evidence.snapshot.as_of, version)
        yield table.name, rows.select(*table.key, *ROW)


def _missing(name: str, dropped: datetime | None) -> str:
    ended = "" if dropped is None else f"; what was asked before {dropped:%Y-%m-%d} was dropped by the retention"
    return f"{name}: the log has no such prediction (answers reach it within seconds){ended}"


def _at(home: Home, use_case: UseCase, table: str) -> lake.TableAt:
    return lake.TableAt(str(home.tables / use_case.name), use_case.table(table))


def _is_kept(home: Home, evidence: Evidence) -> bool:
    manifest = home.snapshots / evidence.use_case / f"{evidence.snapshot.digest}.json"
    return manifest.exists() and evidence.snapshot.model_validate_json(manifest.read_text()) == evidence.snapshot


def _files(tables: Tables, home: Home, use_case: UseCase, evidence: Evidence) -> Iterator[SourceFile]:
    for table in use_case.tables:
        rows = _snapshot_rows(tables, _at(home, use_case, table.name), evidence)
        if rows.is_empty():
            continue
        yield from (_file(table.name, home.landing, row) for row in _by_file(rows).iter_rows(named=True))


def _by_file(rows: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    row = pl.col("_row")
    counted = (pl.len().alias("rows"), row.min().alias("first_row"), row.max().alias("last_row"))
    grouped = rows.group_by("_file", "_digest").agg(*counted, received_at=pl.col("_received_at").min())
    return grouped.rename({"_file": "file", "_digest": "digest"}).sort("received_at", "file")


def _file(table: str, landing: Path, row: dict[str, object]) -> SourceFile:
    return SourceFile.model_validate({**row, "table": table, "kept": (landing / str(row["digest"])).exists()})


def _snapshot_rows(tables: Tables, at: lake.TableAt, evidence: Evidence) -> "pl.DataFrame":
    """Where each row in force came from; only these columns are read."""
    import polars as pl

    snapshot = evidence.snapshot
    rows = tables.scan(at.published, snapshot.versions[at.table.name])
    if not rows.collect_schema():
        return pl.DataFrame()
    key = list(at.table.key)
    newest = pl.col("_file", "_digest", "_row", "_received_at").sort_by("_revision").last()
    arrived = rows.filter(pl.col("_received_at") <= snapshot.as_of)
    return arrived.group_by(key).agg(newest).collect(engine="streaming")


def _rows_of(
    tables: Tables, home: Home, use_case: UseCase, evidence: Evidence, entity: str | None
) -> Iterator[SourceRow]:
    """Every revision of the entity's rows, in order of arrival."""
    import polars as pl

    for table in use_case.tables:
        at = _at(home, use_case, table.name)
        rows = tables.scan(at.published)
        if entity is None or use_case.entity not in rows.collect_schema():
            continue
        is_mine = pl.col(use_case.entity).cast(pl.String) == entity
        arrived, in_force = _places(tables, at, evidence, is_mine)
        for row in rows.filter(is_mine).select(ROW).sort("_batch", "_row").collect().iter_rows(named=True):
            told = {name.removeprefix("_"): value for name, value in row.items()}
            place = row["_batch"], row["_row"]
            known = place in in_force
            yield SourceRow(table=table.name, in_snapshot=known, replaced=place in arrived and not known, **told)


def _places(
    tables: Tables, at: lake.TableAt, evidence: Evidence, wanted: "pl.Expr"
) -> "tuple[set[tuple[int, int]], set[tuple[int, int]]]":
    """Batch and row of all such rows that the snapshot saw, and of those that were in force in it."""
    import polars as pl

    snapshot = evidence.snapshot
    rows = tables.scan(at.published, snapshot.versions[at.table.name])
    if not rows.collect_schema():
        return set(), set()
    arrived = rows.filter(wanted & (pl.col("_received_at") <= snapshot.as_of))
    seen = arrived.select({*at.table.key, *lake.PLACE}).collect()
    each = (seen, lake.last_revisions(at, seen))
    arrived_at, in_force_at = ({*rows.select("_batch", "_row").iter_rows()} for rows in each)
    return arrived_at, in_force_at


def _difference(again: float, recorded: float) -> float:
    """Relative; an answer that is missing or not finite differs without end."""
    distance = abs(again - recorded) / max(abs(recorded), 1e-6)
    return float(distance) if np.isfinite(distance) else float("inf")
