"""The quarantine: list, show, replay, discard."""

import argparse
import csv
import json
import logging
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.commands import declare, name_use_case, write_json
from pipelines.errors import BadSettings
from pipelines.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from pipelines.flows import Runner
    from pipelines.records import Chosen
    from pipelines.spec import Table, UseCase

SHOWN = 20
PLACE = ["_batch", "_row"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    room = commands.add_parser("quarantine", help="rows that broke a rule: list, show, replay, discard")
    deeds = room.add_subparsers(dest="deed", required=True, metavar="DEED")
    _choosing(declare(deeds, "list", list_, "how many rows wait, by table, batch and reason"))
    one = _choosing(declare(deeds, "show", show, "the rows that wait, with their reasons"))
    one.add_argument("--limit", type=_count, help=f"at most so many rows ({SHOWN}; all with --csv or --json)")
    one.add_argument("--csv", action="store_true", help="as CSV, to be corrected and given to replay --fixed")
    one = _choosing(declare(deeds, "replay", replay, "judge rows again, after a fix of the rule or of the rows"))
    one.add_argument("--fixed", type=Path, help="CSV or JSON Lines of corrected rows, named by _batch and _row")
    one = _choosing(declare(deeds, "discard", discard, "give rows up"))
    one.add_argument("--by", required=True, type=_said, help="who decides it")
    one.add_argument("--why", required=True, type=_said, help="why the rows are of no use")


def _said(text: str) -> str:
    """Words, for argparse."""
    if not text.strip():
        raise argparse.ArgumentTypeError("say it in words")
    return text


def _count(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _choosing(one: argparse.ArgumentParser) -> argparse.ArgumentParser:
    name_use_case(one)
    one.add_argument("--table", help="this table only")
    one.add_argument("--batch", type=int, help="this batch only")
    one.add_argument("--reason", help="rows with this text in a reason only")
    return one


def list_(asked: argparse.Namespace, settings: Settings) -> None:
    """Counts by table, batch and reason, the most frequent first; a row counts under each of its reasons."""
    import polars as pl

    lines: list[dict[str, Any]] = []
    for table, waiting in _waiting(asked, settings):
        if len(waiting):
            by = ["batch", "file", "reason"]
            counts = waiting.select(*by[:2], "count", reason="reasons").explode("reason").group_by(by)
            ordered = counts.agg(rows=pl.col("count").sum()).sort(
                ["rows", *by], descending=[True, False, False, False]
            )
            lines += [{"table": table.name, **row} for row in ordered.iter_rows(named=True)]
    if asked.json:
        return write_json(lines)
    for line in lines:
        sys.stdout.write("{table:<12} batch {batch:<5} {rows:>9,} rows  {file}: {reason}\n".format(**line))
    return None if lines else _nothing_waits()


def show(asked: argparse.Namespace, settings: Settings) -> None:
    """The rows as they came; to programs and to be corrected all of them."""
    waiting = _waiting(asked, settings)
    most = asked.limit if asked.limit is not None or asked.csv or asked.json else SHOWN
    entries = ((table, one) for table, frame in waiting for one in frame.iter_rows(named=True))
    rows = [_shown(table, one) for table, one in islice(entries, most)]
    if asked.json:
        return write_json(rows)
    if asked.csv:
        return _write_csv(rows)
    for row in rows:
        told = {name: value for name, value in row.items() if not name.startswith("_")}
        where = f"{row['_table']} batch {row['_batch']} row {row['_row'] or 'all'} of {row['_file']}"
        sys.stdout.write(f"{where}: {'; '.join(row['_reasons'])}\n  {json.dumps(told, ensure_ascii=False)}\n")
    more = sum(len(frame) for _, frame in waiting) - len(rows)
    if more:
        sys.stdout.write(f"and {more:,} more: --limit {len(rows) + more}, or --csv\n")
    return None if rows else _nothing_waits()


def replay(asked: argparse.Namespace, settings: Settings) -> None:
    """Run the step for each table that is meant."""
    from pipelines.steps import quarantine

    fixed = None if asked.fixed is None else _corrected(asked.fixed)
    do, use_case = _runner(asked, settings)
    meant = _tables(asked, use_case)
    if fixed is not None and len(meant) > 1:
        raise BadSettings("--fixed: say by --table which table the corrected rows belong to")
    now = datetime.now(UTC)
    told = [do(quarantine.replay)(table.name, _chosen(asked), fixed, now) for table in meant]
    if asked.json:
        return write_json([one.model_dump(mode="json") for one in told])
    for one in told:
        names = ("published", "revised", "duplicate", "broken")
        counts = ", ".join(f"{getattr(one, name):,} {name}" for name in names)
        sys.stdout.write(f"{one.table}: {counts}\n")
        if one.unknown:
            sys.stdout.write(f"  {one.unknown} corrected rows do not wait in quarantine\n")
        if one.trained_without:
            sys.stdout.write(f"  trained without these rows: versions {', '.join(one.trained_without)}\n")
    return None


def discard(asked: argparse.Namespace, settings: Settings) -> None:
    """Run the step for each table that is meant."""
    from pipelines.steps import quarantine

    do, use_case = _runner(asked, settings)
    now, chosen = datetime.now(UTC), _chosen(asked)
    told = [
        do(quarantine.discard)(table.name, chosen, asked.by, asked.why, now) for table in _tables(asked, use_case)
    ]
    if asked.json:
        return write_json([one.model_dump(mode="json") for one in told])
    for one in told:
        sys.stdout.write(f"{one.table}: {one.rows:,} rows discarded\n")
    return None


def _corrected(file: Path) -> "pl.DataFrame":
    """Corrected rows as text cells; BadSettings where they do not say which rows they are, or hold no cell."""
    import polars as pl

    from pipelines.adapters import readers

    rows = readers.rows_of(file)
    if not set(PLACE) <= set(rows.columns):
        raise BadSettings(f"{file}: corrected rows are named by the columns _batch and _row; see `show --csv`")
    if not any(not name.startswith("_") for name in rows.columns):
        raise BadSettings(f"{file}: there is no column to correct beside {', '.join(rows.columns)}")
    cast = pl.col(PLACE).cast(pl.Int64, strict=False).is_null() & pl.col(PLACE).is_not_null()
    wrong = rows.filter(pl.any_horizontal(cast))
    if len(wrong):
        told = ", ".join(f"{name} {wrong[name][0]!r}" for name in PLACE)
        raise BadSettings(f"{file}: {told} names no row; both are whole numbers, as `show --csv` writes them")
    return rows


def _nothing_waits() -> None:
    sys.stdout.write("nothing waits in quarantine\n")


def _chosen(asked: argparse.Namespace) -> "Chosen":
    from pipelines.records import Chosen

    return Chosen(batch=asked.batch, reason=asked.reason)


def _runner(asked: argparse.Namespace, settings: Settings) -> "tuple[Runner, UseCase]":
    from pipelines import runner, wiring

    logging.getLogger("pipelines").setLevel(logging.INFO)
    name = asked.use_case or settings.use_case
    use_case = wiring.use_case(settings, name)
    return runner.here(wiring.tools(settings, name), use_case), use_case


def _tables(asked: argparse.Namespace, use_case: "UseCase") -> "list[Table]":
    if asked.table is None:
        return list(use_case.tables)
    return [use_case.table(known(use_case, asked.table))]


def known(use_case: "UseCase", table: str) -> str:
    """The table's name; BadSettings lists those there are."""
    names = [each.name for each in use_case.tables]
    if table not in names:
        raise BadSettings(f"--table: {use_case.name} has no table {table}; it has {', '.join(names)}")
    return table


def _waiting(asked: argparse.Namespace, settings: Settings) -> "list[tuple[Table, pl.DataFrame]]":
    """What waits, by table: read from the tables alone, so also when no service runs."""
    from pipelines import lake, wiring
    from pipelines.adapters.delta import DeltaTables
    from pipelines.steps.quarantine import chosen_of

    name = asked.use_case or settings.use_case
    use_case, root = wiring.use_case(settings, name), str(settings.at.tables / name)
    places = [lake.TableAt(root, table) for table in _tables(asked, use_case)]
    return [(at.table, chosen_of(lake.waiting(DeltaTables(), at), _chosen(asked))) for at in places]


def _shown(table: "Table", entry: dict[str, Any]) -> dict[str, Any]:
    """Where it came from and why it waits, then its cells as they came."""
    cells: dict[str, Any] = json.loads(entry["raw"] or "{}")
    whole = {"line": f"the whole file, {entry['count']} lines"}
    place = {"_table": table.name, "_batch": entry["batch"], "_row": entry["row"]}
    return {**place, "_reasons": entry["reasons"], "_file": entry["file"], **(cells or whole)}


def _write_csv(rows: list[dict[str, Any]]) -> None:
    if not rows:
        sys.stderr.write("nothing waits in quarantine\n")
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "_reasons": "; ".join(row["_reasons"])} for row in rows)
