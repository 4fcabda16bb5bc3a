"""The installation: up, down, status, env, doctor."""

import argparse
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.commands import declare, write_json, write_ledgers
from pipelines.commands.quality import figure, length
from pipelines.errors import Final, ServiceAway
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.overview import UseCaseStatus
    from pipelines.predictions.quality import Quality


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    one = declare(commands, "up", up, "set up and start everything, run the main job, stay in front")
    one.add_argument("--detach", action="store_true", help="come back when the main job is done")
    one = declare(commands, "down", down, "stop everything")
    one.add_argument("--purge", action="store_true", help="also remove the home and the database's files")
    declare(commands, "status", status, "what runs, where to reach it, and its memory")
    declare(commands, "env", env, 'shell lines to reach this home: eval "$(touchline env)"')
    declare(commands, "doctor", doctor, "look for what is known to go wrong")


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
    if case.rollout is not None:
        told = f"version {case.rollout.version} in {case.rollout.label}, {case.rollout.percent:g} % of all"
        sys.stdout.write(f"  rollout of {told} (`touchline rollout status {case.use_case}`)\n")
    write_ledgers(case.ledger)
    for ever, newest in zip(case.roles, case.quality, strict=True):
        _write_role(ever, newest)
    waiting = f"by key {case.keyed_labels:,}, of these for no prediction {case.waiting_labels:,}"
    sys.stdout.write(f"  labels of unknown ids {case.orphan_labels:,}, {waiting}\n")
    for event in case.events:
        sys.stdout.write(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.kind}: {event.message}\n")


def _write_role(ever: "Quality", newest: "Quality") -> None:
    """All that was ever asked of a version in a role, and how it did of late."""
    known = ("recorded", "labelled", "pending", "expired", "late")
    counted = ", ".join(f"{getattr(ever, name):,} {name}" for name in known)
    sys.stdout.write(f"  version {ever.model_version} {ever.role}: {counted}\n")
    if newest.labelled and newest.coverage is not None:
        metrics = "".join(f", {name} {figure(value)}" for name, value in newest.metrics.items())
        lag = f"after {length(newest.lag_p50_seconds)} (p50), {length(newest.lag_p90_seconds)} (p90)"
        said = f"mean loss {figure(newest.mean_loss)}{metrics}; {newest.coverage.value:.1%} labelled, {lag}"
        sys.stdout.write(f"    {newest.window}: {said}\n")


def env(_: argparse.Namespace, settings: Settings) -> None:
    """Print export lines."""
    from pipelines.machine.status import exports

    sys.stdout.write(exports(settings) + "\n")


def doctor(asked: argparse.Namespace, settings: Settings) -> None:
    """Print findings; a bad one makes it a final error."""
    from pipelines.machine.doctor import examine

    findings = examine(settings)
    if asked.json:
        write_json([one._asdict() for one in findings])
    else:
        for one in findings:
            sys.stdout.write(f"{'ok ' if one.fine else 'BAD'} {one.what}: {one.told}\n")
    bad = [one.what for one in findings if not one.fine]
    if bad:
        raise Final(f"{len(bad)} findings: {', '.join(bad)}")
