"""Command line: `touchline COMMAND`. Exit codes: 0 done, 1 a final error, 75 try again later."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import settings as settings_of
from pipelines.errors import Final, ServiceAway, TouchlineError
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.flows import Runner
    from pipelines.overview import UseCaseStatus
    from pipelines.records import Ledger
    from pipelines.spec import UseCase

FINAL, AGAIN, INTERRUPTED = 1, 75, 130
Command = Callable[[argparse.Namespace, Settings], None]


def main(argv: list[str] | None = None) -> int:
    """Run one command. An error is two lines, what and whether a repeat helps; its trace with --debug."""
    asked = parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if asked.debug else logging.WARNING)
    try:
        asked.run(asked, settings_of.load(**({"home": asked.home} if asked.home else {})))
    except TouchlineError as error:
        if asked.debug:
            raise
        return tell(asked.command, error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def tell(command: str, error: TouchlineError) -> int:
    """Say what went wrong; the exit code."""
    final = isinstance(error, Final)
    advice = "a repeat gives the same answer" if final else "try again"
    sys.stderr.write(f"touchline {command}: {error}\n  {advice}; --debug shows where it came from\n")
    return FINAL if final else AGAIN


def parser() -> argparse.ArgumentParser:
    """All commands; a new one is a function here and a line below."""
    root = argparse.ArgumentParser(prog="touchline", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = add(commands, "up", up, "set up and start everything, run the main job, stay in front")
    one.add_argument("--detach", action="store_true", help="come back when the main job is done")
    one = add(commands, "down", down, "stop everything")
    one.add_argument("--purge", action="store_true", help="also remove the home and the database's files")
    one = add(commands, "status", status, "what runs, where to reach it, and its memory")
    one.add_argument("--json", action="store_true", help="as JSON")
    for name, run, told in (
        ("ingest", ingest, "read new files, validate them, publish the good rows; here, without Airflow"),
        (
            "retrain",
            retrain,
            "train on what is published, gate, build, check, ask to serve; here, without Airflow",
        ),
    ):
        one = add(commands, name, run, told)
        one.add_argument("use_case", nargs="?", help="name of the use case (TOUCHLINE_USE_CASE)")
        one.add_argument("--json", action="store_true", help="as JSON")
    add(commands, "env", env, 'shell lines to reach this home: eval "$(touchline env)"')
    one = add(commands, "doctor", doctor, "look for what is known to go wrong")
    one.add_argument("--json", action="store_true", help="as JSON")
    return root


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Command, told: str
) -> argparse.ArgumentParser:
    """One command, with the options that all have."""
    one = commands.add_parser(name, help=told, description=told)
    one.add_argument("--home", type=Path, help="folder of all state (TOUCHLINE_HOME)")
    one.add_argument("--debug", action="store_true", help="show where an error came from")
    one.set_defaults(run=run)
    return one


def up(asked: argparse.Namespace, settings: Settings) -> None:
    """Start this home."""
    from pipelines.machine.up import up as start

    start(settings, detach=asked.detach)


def down(asked: argparse.Namespace, settings: Settings) -> None:
    """Stop this home."""
    from pipelines.machine.up import down as stop

    stop(settings, purge=asked.purge)


def status(asked: argparse.Namespace, settings: Settings) -> None:
    """Print what runs."""
    from pipelines.machine.status import status as read
    from pipelines.overview import overview

    told = read(settings)
    cases: tuple[UseCaseStatus, ...] = ()
    trouble = None
    try:
        cases = overview(settings, datetime.now(UTC)) if told.running else ()
    except ServiceAway as away:
        trouble = str(away)
    if asked.json:
        by_name = {each.use_case: each.model_dump(mode="json") for each in cases}
        write_json({**told.as_json(), "use_cases": by_name, "trouble": trouble})
        return
    for name, value in told.as_json().items():
        if name != "services":
            sys.stdout.write(f"{name:<15} {value}\n")
    for one in told.services:
        row = f"{one.state:<9} {one.uptime_seconds:>7} s  pid {one.pid:<8} {one.pss_mib:>7} MiB"
        sys.stdout.write(f"{one.name:<24} {row}\n")
    for case in cases:
        _write_use_case(case)
    if trouble is not None:
        sys.stdout.write(f"\nuse cases cannot be read: {trouble}\n")


def _write_use_case(case: "UseCaseStatus") -> None:
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in case.metrics.items())
    sys.stdout.write(f"\n{case.use_case}: champion {case.champion or 'none yet'} ({metrics or 'no metrics'})\n")
    for place in case.places:
        sys.stdout.write(f"  place {place.line} port {place.port} {place.role:<8} version {place.version}\n")
    _write_ledgers(case.ledger)
    for counts in case.labels:
        known = ", ".join(f"{counts[name]:,} {name}" for name in ("recorded", "labelled", "pending", "expired"))
        loss = "-" if counts["mean_loss"] is None else f"{counts['mean_loss']:.4g}"
        sys.stdout.write(f"  predictions of version {counts['model_version']}: {known}, mean loss {loss}\n")
    sys.stdout.write(f"  labels of unknown ids {case.orphan_labels:,}, by key {case.keyed_labels:,}\n")
    for event in case.events:
        sys.stdout.write(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.kind}: {event.message}\n")


def ingest(asked: argparse.Namespace, settings: Settings) -> None:
    """Run the flow that the DAG runs, for every table."""
    from pipelines import flows

    do, use_case = _runner(asked, settings)
    now = datetime.now(UTC)
    ledgers = [flows.ingestion(do, table.name, now) for table in use_case.tables]
    if asked.json:
        return write_json([ledger.model_dump(mode="json") for ledger in ledgers])
    return _write_ledgers(ledgers)


def retrain(asked: argparse.Namespace, settings: Settings) -> None:
    """Run the flow that the DAG runs."""
    from pipelines import flows

    do, _ = _runner(asked, settings)
    promotion = flows.retraining(do, datetime.now(UTC))
    if asked.json:
        return write_json(promotion.model_dump(mode="json"))
    sys.stdout.write(f"{promotion.reason}\n")
    return None


def _runner(asked: argparse.Namespace, settings: Settings) -> "tuple[Runner, UseCase]":
    from pipelines import runner, wiring

    logging.getLogger("pipelines").setLevel(logging.INFO)
    name = asked.use_case or settings.use_case
    use_case = wiring.use_case(settings, name)
    return runner.here(wiring.tools(settings, name), use_case), use_case


def _write_ledgers(ledgers: "Sequence[Ledger]") -> None:
    columns = ("arrived", "published", "revised", "quarantined", "duplicate", "discarded")
    sys.stdout.write(f"{'table':<12}" + "".join(f"{name:>12}" for name in columns) + "\n")
    for ledger in ledgers:
        counts = "".join(f"{getattr(ledger, name):>12,}" for name in columns)
        sys.stdout.write(f"{ledger.table:<12}{counts}\n")


def env(_: argparse.Namespace, settings: Settings) -> None:
    """Print export lines."""
    from pipelines.machine.status import exports

    sys.stdout.write(exports(settings) + "\n")


def doctor(asked: argparse.Namespace, settings: Settings) -> None:
    """Print findings; a bad one makes it a final error."""
    from pipelines.machine.status import examine

    findings = examine(settings)
    if asked.json:
        write_json([one._asdict() for one in findings])
    else:
        for one in findings:
            sys.stdout.write(f"{'ok ' if one.fine else 'BAD'} {one.what}: {one.told}\n")
    bad = [one.what for one in findings if not one.fine]
    if bad:
        raise Final(f"{len(bad)} findings: {', '.join(bad)}")


def write_json(what: object) -> None:
    """One document, for programs."""
    sys.stdout.write(json.dumps(what, indent=1, default=str) + "\n")


if __name__ == "__main__":
    sys.exit(main())
