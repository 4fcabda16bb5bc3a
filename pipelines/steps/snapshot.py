"""Snapshot: name exactly which validated rows a training run may see."""

import hashlib
import json
import logging
from datetime import datetime

import polars as pl

from pipelines import lake
from pipelines.errors import BadSettings, NotEnoughData
from pipelines.records import CleanSnapshot, Wish
from pipelines.spec import UseCase
from pipelines.steps.validate import suite_digest
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def take_snapshot(tools: Tools, use_case: UseCase, wish: Wish, now: datetime) -> CleanSnapshot:
    """The snapshot that is wished for: one taken before, or all rows in force at a time."""
    log.info("%s trains: %s", use_case.name, wish.reason)
    if wish.snapshot is not None:
        return kept_snapshot(tools, use_case, wish.snapshot)
    if wish.as_of is not None and wish.as_of > now:
        raise BadSettings(f"as of {wish.as_of:%Y-%m-%d %H:%M:%S%z} is in the future")
    return _take(tools, use_case, now if wish.as_of is None else wish.as_of)


def kept_snapshot(tools: Tools, use_case: UseCase, digest: str) -> CleanSnapshot:
    """The manifest whose digest begins so; NotEnoughData when none or several do."""
    found = sorted((tools.snapshots / use_case.name).glob("*.json"))
    meant = [file for file in found if digest and file.name.startswith(digest)]
    if len(meant) != 1:
        told = ", ".join(file.stem[:12] for file in found) or "none"
        raise NotEnoughData(f"{use_case.name}: {len(meant)} snapshots begin with {digest!r}; there are: {told}")
    return CleanSnapshot.model_validate_json(meant[0].read_bytes())


def _take(tools: Tools, use_case: UseCase, now: datetime) -> CleanSnapshot:
    """Write the manifest of all rows in force at `now`; the same content gives the same digest."""
    versions = {
        table.name: tools.tables.version(_at(tools, use_case, table.name).published) for table in use_case.tables
    }
    frames = {
        name: lake.in_force(tools.tables, _at(tools, use_case, name), now, version, only=["_hash"])
        for name, version in versions.items()
    }
    empty = [name for name, rows in frames.items() if rows.is_empty()]
    if empty:
        raise NotEnoughData(f"{use_case.name}: nothing is published yet in {', '.join(empty)}")
    snapshot = CleanSnapshot(
        use_case=use_case.name,
        as_of=now,
        versions=versions,
        rows={name: rows.height for name, rows in frames.items()},
        suites={name: suite_digest(tools.found.expectations / f"{name}.json") for name in frames},
        digest=_digest(use_case, frames),
    )
    _keep(tools, use_case, snapshot)
    log.info("snapshot=%s rows=%s", snapshot.digest[:12], snapshot.rows)
    return snapshot


def frames_of(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> dict[str, pl.DataFrame]:
    """The declared columns of the snapshot's rows, by table."""
    return {
        name: lake.in_force(
            tools.tables, _at(tools, use_case, name), snapshot.as_of, version, without=lake.LINEAGE
        )
        for name, version in snapshot.versions.items()
    }


def _at(tools: Tools, use_case: UseCase, table: str) -> lake.TableAt:
    return lake.TableAt(tools.tables_at, use_case.table(table))


def _digest(use_case: UseCase, frames: dict[str, pl.DataFrame]) -> str:
    whole = hashlib.sha256()
    for table in use_case.tables:
        schema = [(column.name, column.type) for column in table.columns]
        whole.update(json.dumps([table.name, schema]).encode())
        for content in frames[table.name]["_hash"].sort():
            whole.update(content.encode())
    return whole.hexdigest()


def _keep(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> None:
    folder = tools.snapshots / use_case.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{snapshot.digest}.json"
    if not file.exists():
        file.with_suffix(".partial").write_text(snapshot.model_dump_json(indent=1))
        file.with_suffix(".partial").replace(file)
