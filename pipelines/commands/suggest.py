"""Drafts of suites, for a person to review."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands import declare
from pipelines.errors import BadSettings, NotEnoughData
from pipelines.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from pipelines.spec import Table


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    told = "draft a suite from published rows, or from a file; a person reviews it"
    one = declare(commands, "suggest-expectations", suggest, told)
    one.add_argument("use_case", nargs="?", help="name of the use case (TOUCHLINE_USE_CASE)")
    one.add_argument("--table", help="which table (may be left out when there is one)")
    one.add_argument("--from", dest="source", type=Path, help="rows of this file instead of published ones")
    one.add_argument("--out", type=Path, help="write it there instead of printing it")
    one.add_argument("--force", action="store_true", help="overwrite what --out names")


def suggest(asked: argparse.Namespace, settings: Settings) -> None:
    """Print the draft, or write it where nothing stands yet."""
    from pipelines import drafting, wiring

    use_case = wiring.use_case(settings, asked.use_case or settings.use_case)
    names = [table.name for table in use_case.tables]
    name = asked.table or names[0]
    if name not in names or (asked.table is None and len(names) > 1):
        raise BadSettings(f"--table: say one of {', '.join(names)}")
    table = use_case.table(name)
    rows = _declared(_rows(asked, settings, use_case.name, table), table)
    draft = json.dumps(drafting.draft_suite(name, rows, table.key), indent=1, ensure_ascii=False) + "\n"
    if asked.out is None:
        sys.stdout.write(draft)
        return
    if asked.out.exists() and not asked.force:
        raise BadSettings(f"--out: {asked.out} exists; --force overwrites it")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(draft)


def _rows(asked: argparse.Namespace, settings: Settings, name: str, table: "Table") -> "pl.DataFrame":
    from datetime import UTC, datetime

    from pipelines import lake
    from pipelines.adapters import readers
    from pipelines.adapters.delta import DeltaTables

    if asked.source is not None:
        return readers.rows_of(asked.source)
    at = lake.TableAt(str(settings.at.tables / name), table)
    rows = lake.in_force(DeltaTables(), at, datetime.now(UTC))
    if rows.is_empty():
        raise NotEnoughData(f"{name}: nothing is published yet in {table.name}; give a file by --from")
    return rows


def _declared(rows: "pl.DataFrame", table: "Table") -> "pl.DataFrame":
    """The columns that the table declares; the suite never sees others."""
    return rows.select(column.name for column in table.columns if column.name in rows.columns)
