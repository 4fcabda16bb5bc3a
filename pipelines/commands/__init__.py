"""The commands, one module a room; each command is a function of the parsed words and the settings.

A module has `add(commands)`, which declares its commands. Heavy libraries are imported inside functions only.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.records import Ledger

Command = Callable[[argparse.Namespace, Settings], None]


def declare(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Command, told: str
) -> argparse.ArgumentParser:
    """One command, with the options that all have."""
    one = commands.add_parser(name, help=told, description=told)
    one.add_argument("--home", type=Path, help="folder of all state (TOUCHLINE_HOME)")
    one.add_argument("--debug", action="store_true", help="show where an error came from")
    one.add_argument("--json", action="store_true", help="as JSON")
    one.set_defaults(run=run)
    return one


def name_use_case(one: argparse.ArgumentParser) -> None:
    """Let a command be told its use case."""
    one.add_argument("use_case", nargs="?", help="name of the use case (TOUCHLINE_USE_CASE)")


def moment(text: str) -> datetime:
    """A time with its offset, for argparse."""
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 2026-01-31T12:00:00Z") from None
    if told.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no offset: write 2026-01-31T12:00:00Z or …+01:00")
    return told


def write_json(what: object) -> None:
    """One document, for programs."""
    sys.stdout.write(json.dumps(what, indent=1, default=str) + "\n")


def write_ledgers(ledgers: "Sequence[Ledger]") -> None:
    """One row a table."""
    columns = ("arrived", "published", "revised", "quarantined", "duplicate", "discarded")
    sys.stdout.write(f"{'table':<12}" + "".join(f"{name:>12}" for name in columns) + "\n")
    for ledger in ledgers:
        counts = "".join(f"{getattr(ledger, name):>12,}" for name in columns)
        sys.stdout.write(f"{ledger.table:<12}{counts}\n")
