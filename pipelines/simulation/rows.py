"""Where simulated clients take their rows from: real files, or drops that nothing was trained on."""

import logging
import shutil
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from pipelines import cells
from pipelines import rows as rows_of
from pipelines.errors import BadSettings, NotEnoughData
from pipelines.simulation.plan import Rows
from pipelines.spec import Files, Table, UseCase
from pipelines.steps.validate import absent, zone_of
from pipelines.tools import Reader, Unreadable

log = logging.getLogger(__name__)
FIRST_DROP = 10_000
"""Drops from here on never are a home's own: these grow by one a day."""
DROPS_APART = 100
MOST_DROPS = 50


def from_files(use_case: UseCase, folder: Path, reader: Reader, now: datetime) -> Rows:
    """The use case's tables, read from a folder and assembled; broken rows and files are left out."""
    if not folder.is_dir():
        raise BadSettings(f"{folder} is no folder")
    return _rows(
        use_case, use_case.assemble({each.name: _table(each, folder, reader) for each in use_case.tables}, now)
    )


def from_simulation(use_case: UseCase, seed: int, at_least: int, now: datetime) -> Rows:
    """Drops of the use case's own simulation, so many that the rows suffice; at most MOST_DROPS."""
    if use_case.simulate is None:
        raise BadSettings(f"{use_case.name} has no simulation: say --from FOLDER")
    found: list[pl.DataFrame] = []
    for drop in range(MOST_DROPS):
        number = FIRST_DROP + seed % FIRST_DROP * DROPS_APART + drop
        found.append(use_case.assemble(use_case.simulate(seed, number), now))
        if sum(each.height for each in found) >= at_least:
            break
    return _rows(use_case, pl.concat(found))


def _table(table: Table, folder: Path, reader: Reader) -> pl.DataFrame:
    if not isinstance(table.source, Files):
        raise BadSettings(f"table {table.name}: rows of a source of kind {table.source.kind} lie in no folder")
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and fnmatch(file.name, table.source.pattern)
    )
    if not files:
        raise BadSettings(f"{folder} holds no file like {table.source.pattern}")
    read = [rows for file in files if (rows := _typed(table, file, reader)) is not None]
    if not read:
        raise BadSettings(f"{folder}: no file like {table.source.pattern} can be read; see `touchline validate`")
    whole = pl.concat(read, how="diagonal")
    return whole.unique(subset=list(table.key), keep="last", maintain_order=True)


def _typed(table: Table, file: Path, reader: Reader) -> pl.DataFrame | None:
    """The file's whole rows; None where an ingest would refuse all of it."""
    with TemporaryDirectory(prefix="touchline-simulate-") as made:
        read = reader.read(Path(shutil.copyfile(file, Path(made) / "file")), table, None)
    refused = [read.reason] if isinstance(read, Unreadable) else absent(read.rows, table)
    if isinstance(read, Unreadable) or refused:
        log.warning("%s is left out: %s", file.name, "; ".join(refused))
        return None
    zone = zone_of(table)
    known = [column for column in table.columns if column.name in read.rows.columns]
    typed = read.rows.select(cells.values(read.rows, column, zone).alias(column.name) for column in known)
    return typed.drop_nulls([column.name for column in known if not column.optional])


def _rows(use_case: UseCase, assembled: pl.DataFrame) -> Rows:
    needed = [field.name for field in use_case.inputs if not field.optional]
    kept = assembled.drop_nulls([*needed, use_case.entity, use_case.target])
    if kept.is_empty():
        raise NotEnoughData(f"{use_case.name}: no complete row to send")
    times: list[str | None] = [None] * kept.height
    if use_case.event_time is not None:
        times = [_rfc3339(time) for time in kept[use_case.event_time]]
    columns = rows_of.columns_of(use_case, kept)
    actual = rows_of.targets_of(use_case, kept)[use_case.target]
    return Rows(columns, kept[use_case.entity].to_list(), times, actual)


def _rfc3339(time: datetime) -> str:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()
