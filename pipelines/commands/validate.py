"""Look before anything is published: validate what waits, or a file."""

import argparse
import logging
import os
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands import declare, name_use_case, write_json
from pipelines.commands.quarantine import known
from pipelines.errors import BadSettings, Final
from pipelines.scratch import scratch
from pipelines.settings import Settings
from pipelines.spec import Files

if TYPE_CHECKING:
    from pipelines.records import CheckedArrivals
    from pipelines.spec import Table, UseCase
    from pipelines.tools import Tools


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    one = declare(commands, "validate", validate, "judge what waits, or a file; nothing is published")
    name_use_case(one)
    one.add_argument("--table", help="this table only")
    one.add_argument("--file", type=Path, help="judge this file (with --table, when there are several tables)")
    one.add_argument(
        "--without", action="append", default=[], metavar="COLUMN", help="rows lack this column: a label"
    )


def validate(asked: argparse.Namespace, settings: Settings) -> None:
    """Print verdict and findings; a refused batch makes it a final error."""
    from pipelines import wiring

    name = asked.use_case or settings.use_case
    use_case = wiring.use_case(settings, name)
    tables = [use_case.table(known(use_case, asked.table))] if asked.table else list(use_case.tables)
    tools = wiring.tools(settings, name)
    with scratch("look") as folder:
        if asked.file is None:
            checked = _waiting(tools, use_case, tables, folder)
        else:
            checked = [_file(tools, use_case, tables, asked, folder)]
    _write(asked, checked)


def _waiting(tools: "Tools", use_case: "UseCase", tables: "list[Table]", folder: Path) -> "list[CheckedArrivals]":
    """Each table's; what is judged lies apart, so that a run which is about to publish keeps its own."""
    from pipelines import runner
    from pipelines.steps.receive import receive
    from pipelines.steps.validate import validate as judge

    logging.getLogger("pipelines").setLevel(logging.ERROR)
    now, apart = datetime.now(UTC), replace(tools, tables_at=str(folder))
    do, look = runner.here(tools, use_case), runner.here(apart, use_case)
    return [look(judge)(do(receive)(table.name, now), now) for table in tables]


def _file(
    tools: "Tools", use_case: "UseCase", tables: "list[Table]", asked: argparse.Namespace, folder: Path
) -> "CheckedArrivals":
    """The file judged in a landing of its own, so that nothing of it arrives; its page is kept."""
    from pipelines.adapters.sources import FolderSource
    from pipelines.steps.receive import receive
    from pipelines.steps.validate import validate as judge
    from pipelines.steps.validate import without, zone_of

    if len(tables) != 1:
        raise BadSettings("--file: say by --table which table the file belongs to")
    if not asked.file.is_file():
        raise BadSettings(f"--file: {asked.file} is no file")
    tools, table = without(tools, tables[0], asked.without)
    drop, now = folder / "drop", datetime.now(UTC)
    drop.mkdir()
    os.utime(shutil.copyfile(asked.file, drop / asked.file.name), (0, 0))
    table = table.model_copy(update={"source": Files(pattern="*", zone=zone_of(table))})
    alone = use_case.model_copy(update={"tables": (table,)})
    docs = tools.docs / "looked-at"
    own = replace(tools, source=FolderSource(drop), landing=folder / "landing", tables_at=str(folder), docs=docs)
    return judge(own, alone, receive(own, alone, table.name, now), now)


def _write(asked: argparse.Namespace, checked: "list[CheckedArrivals]") -> None:
    if asked.json:
        write_json([one.model_dump(mode="json") for one in checked])
    else:
        for one in checked:
            _write_table(one)
    refused = [batch.batch.file for one in checked for batch in one.batches if batch.failed is not None]
    if refused:
        raise Final(f"{len(refused)} batches are refused: {', '.join(sorted(set(refused)))}")


def _write_table(checked: "CheckedArrivals") -> None:
    if not checked.batches:
        sys.stdout.write(f"{checked.table}: nothing waits\n")
    for one in checked.batches:
        verdict = (
            f"refused: {one.failed}"
            if one.failed
            else f"{one.batch.rows - one.broken:,} rows good, {one.broken:,} broken"
        )
        sys.stdout.write(
            f"{checked.table} batch {one.batch.number} ({one.batch.file}, {one.batch.rows:,} rows): {verdict}\n"
        )
        for told in one.reasons:
            sys.stdout.write(f"  {told.rows:>9,} rows: {told.reason} (rows {told.places})\n")
        for warning in one.warnings:
            sys.stdout.write(f"  warning: {warning}\n")
        if one.page:
            sys.stdout.write(f"  page: {one.page}\n")
