"""The way of a challenger to champion, seen and steered by hand."""

import argparse
import getpass
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.commands import declare, write_json
from pipelines.commands.quality import length
from pipelines.errors import Final, Passing
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.adapters.postgres_rollouts import Past
    from pipelines.rollout.counting import Counted
    from pipelines.rollout.evidence import Finding, Moments, Verdict
    from pipelines.rollout.stages import Entry, Rollout

ORDERS = {
    "start": "begin the rollout of a version that passed gate and check",
    "hold": "stay in this stage; bad news still rolls back",
    "resume": "go on after a hold",
    "approve": "agree to the next stage, where the plan asks for a person",
    "promote": "give it all requests at once, whatever the plan waits for",
    "abort": "end it before it gets all requests",
    "rollback": "bring the previous champion back, which is kept warm until the watch ends",
}
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.5
EVERY_SECONDS = 2.0
ENDS = "no rollout is under way"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `rollout status` and one command an order."""
    room = commands.add_parser("rollout", help=__doc__, description=__doc__)
    below = room.add_subparsers(dest="rollout_command", required=True, metavar="COMMAND")
    one = declare(below, "status", status, "where it is, what both clocks say, and what happened")
    one.add_argument("use_case", nargs="?", help="name of the use case (TOUCHLINE_USE_CASE)")
    one.add_argument("--follow", action="store_true", help="again and again, until it ends or Ctrl-C")
    one.add_argument("--plot", type=Path, metavar="FILE", help="also draw the confidence sequences, as PNG")
    for kind, told in ORDERS.items():
        one = declare(below, kind, order, told)
        one.add_argument("use_case", nargs="?", help="name of the use case (TOUCHLINE_USE_CASE)")
        one.add_argument("--version", required=kind == "start", help="the version that is meant")
        one.add_argument("--by", default=None, help="who asks; default: the user")
        one.add_argument("--why", default="by hand", help="the reason; history and notices show it")


def order(asked: argparse.Namespace, settings: Settings) -> None:
    """Ask the reconciler, and wait for what becomes of it."""
    from pipelines import wiring
    from pipelines.rollout.stages import Order

    use_case = wiring.use_case(settings, asked.use_case or settings.use_case).name
    rollouts = wiring.rollouts(settings)
    given = {"kind": asked.rollout_command, "version": asked.version, "who": asked.by or getpass.getuser()}
    number = rollouts.order(Order(at=datetime.now(UTC), use_case=use_case, why=asked.why, **given))
    deadline = time.monotonic() + WAIT_SECONDS
    while (told := rollouts.settled(number)) is None:
        if time.monotonic() > deadline:
            raise Passing(f"the reconciler has not answered in {WAIT_SECONDS:.0f} s; the order waits for it")
        time.sleep(POLL_SECONDS)
    if " refused: " in told:
        raise Final(told)
    if asked.json:
        return write_json({"use_case": use_case, "order": number, "told": told})
    sys.stdout.write(told + "\n")
    return None


def status(asked: argparse.Namespace, settings: Settings) -> None:
    """The present or the last rollout."""
    from pipelines import wiring

    use_case = wiring.use_case(settings, asked.use_case or settings.use_case).name
    while True:
        told = _read(settings, use_case)
        if asked.json:
            write_json(_plain(told))
        else:
            sys.stdout.write(_text(told))
        if asked.plot:
            _draw(asked.plot, told)
        if not asked.follow or told["rollout"] is None:
            return
        time.sleep(EVERY_SECONDS)


def _read(settings: Settings, use_case: str) -> dict[str, Any]:
    from pipelines import wiring
    from pipelines.adapters.postgres_book import PostgresBook

    rollouts, serving = wiring.rollouts(settings), PostgresBook(settings.database).serving(use_case)
    past = rollouts.past(use_case)
    shown = past[0] if past else None
    looked = rollouts.looked(use_case)
    return {
        "use_case": use_case,
        "champion": serving.version,
        "rollout": serving.rollout,
        "places": serving.places,
        "past": past,
        "counted": rollouts.counted(use_case, shown.began) if shown else None,
        "verdict": looked.verdict if looked and shown and looked.began == shown.began else None,
        "changes": rollouts.changes(use_case, shown.began) if shown else [],
        "looks": rollouts.looks(use_case, shown.began) if shown else [],
    }


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    """As JSON; looks are for the picture."""
    counted, rollout = told["counted"], told["rollout"]
    return {
        **{name: told[name] for name in ("use_case", "champion")},
        "rollout": rollout and rollout.model_dump(mode="json") | {"percent": rollout.percent},
        "places": [place.model_dump(mode="json") for place in told["places"]],
        "verdict": told["verdict"] and told["verdict"].model_dump(mode="json"),
        "counted": counted and counted[1].model_dump(mode="json", exclude={"latencies"}),
        "changes": [each.model_dump(mode="json", exclude={"evidence"}) for each in told["changes"]],
        "past": [each.model_dump(mode="json", exclude={"state"}) for each in told["past"]],
    }


def _text(told: dict[str, Any]) -> str:
    head = f"{told['use_case']}: champion {told['champion'] or 'none yet'}; {_where(told['rollout'])}\n"
    lines = [f"  place {p.line} port {p.port} {p.role:<8} version {p.version}" for p in told["places"]]
    if told["verdict"]:
        lines += _verdict(told["verdict"])
    if told["counted"]:
        counted = told["counted"][1]
        lines += _slices(counted)
        lines += [f"  asked again {counted.asked_again:,}, of these without an answer {counted.unanswered:,}"]
    lines += [_change(each) for each in told["changes"]]
    lines += [_past(each) for each in told["past"] if each.ended_at]
    return head + "".join(line + "\n" for line in lines)


def _where(rollout: "Rollout | None") -> str:
    if rollout is None:
        return ENDS
    told = f"version {rollout.version} against {rollout.against} in {rollout.label}, {rollout.percent:g} % of all"
    told += f", since {rollout.since:%Y-%m-%d %H:%M:%S}"
    told += f"; held by {rollout.held}" if rollout.held else ""
    return told + (f"; waits for {rollout.asks}" if rollout.asks else "")


def _verdict(verdict: "Verdict") -> list[str]:
    head = ("metric", "clock", "n", "estimate", "interval", "allowed", "verdict", "needs", "about")
    rows = [head, *(_finding(each) for each in verdict.findings)]
    return [*_table(rows), f"  {verdict.verdict}: {verdict.why}"]


def _finding(found: "Finding") -> tuple[str, ...]:
    interval = f"[{_number(found.lower)}, {_number(found.upper)}]"
    needs = "-" if found.needs is None else f"{found.needs:,}"
    about = "-" if found.seconds is None else length(found.seconds)
    estimate = (_number(found.value), interval, _number(found.limit))
    return (found.metric, found.clock, f"{found.n:,}", *estimate, found.verdict, needs, about)


def _number(value: float | None) -> str:
    return "…" if value is None else f"{value:.4g}"


def _slices(counted: "Counted") -> list[str]:
    """How far apart both answers to one request lie, and how each is spread."""
    head = ("slice", "output", "pairs", "distance", "shift", "champion mean ± sd", "challenger mean ± sd")
    rows = [head] + [
        (
            name,
            output,
            f"{apart.shift.n:,}",
            _number(_mean(apart.disagreement)),
            _number(_mean(apart.shift)),
            _spread(apart.champion),
            _spread(apart.challenger),
        )
        for name, outputs in sorted(counted.slices.items())
        for output, apart in sorted(outputs.items())
    ]
    return _table(rows) if len(rows) > 1 else []


def _mean(moments: "Moments") -> float | None:
    return moments.total / moments.n if moments.n else None


def _spread(moments: "Moments") -> str:
    if not moments.n:
        return "-"
    mean = moments.total / moments.n
    return f"{mean:.4g} ± {max(moments.squares / moments.n - mean**2, 0.0) ** 0.5:.4g}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    told = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {row}".rstrip() for row in told]


def _change(entry: "Entry") -> str:
    return f"  {entry.at:%Y-%m-%d %H:%M:%S} {entry.kind} by {entry.who}: {entry.why}"


def _past(past: "Past") -> str:
    ended = "" if past.ended_at is None else f"{past.ended_at:%Y-%m-%d %H:%M:%S}"
    return f"  past: version {past.version} against {past.against}, {past.outcome} {ended}"


def _draw(file: Path, told: dict[str, Any]) -> None:
    from pipelines.adapters.rollout_plot import draw_rollout

    looks: Sequence[Any] = told["looks"]
    if not looks:
        raise Final("nothing was judged yet: there is nothing to draw")
    draw_rollout(file, told["past"][0].version, told["changes"], looks)
    sys.stdout.write(f"{file}\n")
