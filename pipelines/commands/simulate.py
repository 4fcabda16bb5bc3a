"""Simulated clients: stream rows and late labels at this home's endpoint."""

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands import declare, name_use_case, write_json
from pipelines.commands.quality import figure
from pipelines.errors import BadSettings, ServiceAway
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.simulation.drive import Summary
    from pipelines.simulation.plan import Plan, Rows
    from pipelines.spec import UseCase

ROWS = 1000
"""What is sent when neither a number nor a time is told: never endless."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    one = declare(commands, "simulate", simulate, "stream rows and late labels at the running endpoint")
    name_use_case(one)
    one.add_argument("--rate", type=float, default=10.0, help="requests a second, an open loop; default 10")
    one.add_argument("--batch", type=int, default=1, help="rows a request; default 1")
    one.add_argument("--rows", type=int, help=f"how many rows; default {ROWS}, without --duration")
    one.add_argument("--duration", help="for how long, like 10m")
    one.add_argument("--burst", help="10x:30s/5m: every 5 min begin with 30 s at ten times the rate")
    one.add_argument("--idle", help="30s/5m: every 5 min end with 30 s without a request")
    one.add_argument("--label-delay", default="0s", help="2m: always; exp:2m: exponential with that mean")
    one.add_argument("--label-loss", type=float, default=0.0, help="share of labels that never come")
    one.add_argument("--labels-by", choices=("id", "key", "none"), default="id", help="what labels name")
    one.add_argument(
        "--shift",
        action="append",
        default=[],
        metavar="COLUMN=CHANGE",
        help="drift: heart_rate=+0.5sd, =-3, =*1.2",
    )
    one.add_argument("--shift-after", default="0s", help="when the drift begins")
    one.add_argument("--seed", type=int, default=0, help="the same seed sends the same; default 0")
    one.add_argument(
        "--from",
        dest="folder",
        type=Path,
        help="folder of real files; default TOUCHLINE_DATA, else the simulation",
    )


def simulate(asked: argparse.Namespace, settings: Settings) -> None:
    """Send, show how it goes, and say what came of it."""
    from pipelines import wiring

    use_case = wiring.use_case(settings, asked.use_case or settings.use_case)
    plan = _plan(asked, use_case)
    rows = _rows(settings, use_case, asked.folder, plan)
    done = asyncio.run(_drive(use_case, plan, rows, f"{settings.endpoint}/{use_case.name}", quiet=asked.json))
    if asked.json:
        write_json({"plan": plan.model_dump(mode="json"), **done.model_dump(mode="json")})
    else:
        sys.stdout.write(told(done) + "\n")
    if done.sent and not done.answered:
        raise ServiceAway(f"no row was answered: {done.refused}")


def _plan(asked: argparse.Namespace, use_case: "UseCase") -> "Plan":
    from pydantic import ValidationError

    from pipelines.simulation import plan as read

    duration = None if asked.duration is None else read.length(asked.duration)
    try:
        return read.Plan(
            seed=asked.seed,
            rate=asked.rate,
            batch=asked.batch,
            rows=ROWS if asked.rows is None and duration is None else asked.rows,
            duration=duration,
            burst=None if asked.burst is None else read.burst(asked.burst),
            idle=None if asked.idle is None else read.idle(asked.idle),
            label_delay=read.delay(asked.label_delay),
            label_loss=asked.label_loss,
            labels_by=asked.labels_by,
            shifts=tuple(read.shift(each, use_case) for each in asked.shift),
            shift_after=read.length(asked.shift_after),
        )
    except ValidationError as wrong:
        told = "; ".join(f"--{_option(each['loc'])}: {each['msg']}" for each in wrong.errors())
        raise BadSettings(told) from None


def _option(place: "tuple[int | str, ...]") -> str:
    return ".".join(map(str, place)).replace("_", "-")


def _rows(settings: Settings, use_case: "UseCase", folder: Path | None, plan: "Plan") -> "Rows":
    from pipelines.adapters.readers import Readers
    from pipelines.simulation import rows

    now, found = datetime.now(UTC), folder or settings.data
    if found is not None:
        return rows.from_files(use_case, found, Readers(), now)
    return rows.from_simulation(use_case, plan.seed, plan.rows or ROWS, now)


async def _drive(use_case: "UseCase", plan: "Plan", rows: "Rows", base: str, *, quiet: bool) -> "Summary":
    """Ctrl-C ends it; what was sent by then is summed up."""
    from rich.console import Console
    from rich.live import Live

    from pipelines.simulation.drive import Drive
    from pipelines.simulation.plan import requests

    drive = Drive(use_case, plan, base)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, drive.stop)
    stream = requests(use_case, plan, rows)
    if quiet:
        return await drive.run(stream)
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        return await drive.run(stream, lambda so_far: live.update(told(so_far), refresh=True))


def told(so_far: "Summary") -> str:
    """A few lines for people."""
    refused = ", ".join(f"{n:,} {code}" for code, n in so_far.refused.items()) or "none"
    latency = ", ".join(f"{name} {value:.3g}" for name, value in so_far.latency_ms.items())
    metrics = "".join(f", {name} {figure(value)}" for name, value in so_far.metrics.items())
    ended = ", interrupted" if so_far.interrupted else ""
    return (
        f"{so_far.seconds:.0f} s{ended}: {so_far.sent:,} rows sent, {so_far.answered:,} answered, "
        f"refused: {refused}\n"
        f"labels: {so_far.labels:,} told, {so_far.labels_waiting:,} to come, {so_far.labels_lost:,} lost, "
        f"{sum(so_far.labels_refused.values()):,} refused\n"
        f"latency in ms: {latency or '-'}\n"
        f"mean loss {figure(so_far.mean_loss)}{metrics}"
    )
