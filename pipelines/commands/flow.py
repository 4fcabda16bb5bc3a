"""The flows and their parts, here and without Airflow: ingest, train, gate, build, retrain, backtest."""

import argparse
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from pipelines.commands import declare, moment, name_use_case, write_json, write_ledgers
from pipelines.errors import NotEnoughData
from pipelines.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.flows import Runner
    from pipelines.records import Backtest, Candidate, Interval, Wish
    from pipelines.spec import Frozen, UseCase
    from pipelines.tools import Evidence, Tools

WINDOWS = 10


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    name_use_case(declare(commands, "ingest", ingest, "read what is new, validate it, publish the good rows"))
    one = declare(commands, "train", train, "take a snapshot and train a candidate on it; nothing is judged")
    _wish(one)
    one = declare(commands, "gate", gate, "judge a candidate against the champion and record the verdict")
    name_use_case(one)
    one.add_argument(
        "--version", help="a version, also one that was registered by hand; default: the newest candidate"
    )
    one = declare(commands, "build", build, "register, build and check a candidate that passed the gate")
    name_use_case(one)
    one.add_argument("--version", help="a version; default: the newest candidate that passed the gate")
    one = declare(commands, "retrain", retrain, "train, gate, build, check, ask to serve")
    _wish(one)
    one.add_argument("--force", action="store_true", help="judge and ask again, although it was done before")
    one = declare(
        commands, "backtest", backtest, "what would have been answered, had it been trained so all along"
    )
    name_use_case(one)
    one.add_argument(
        "--windows", type=int, default=WINDOWS, help=f"how many, each as long as what is held out ({WINDOWS})"
    )


def _wish(one: argparse.ArgumentParser) -> None:
    name_use_case(one)
    one.add_argument("--as-of", type=moment, help="only rows that had arrived by then (RFC 3339)")
    one.add_argument("--snapshot", help="beginning of the digest of a snapshot taken before: train on its rows")
    one.add_argument("--reason", default="asked for on the command line", help="why; the run shows it")


class Bench(NamedTuple):
    """All that a command needs to run steps here."""

    do: "Runner"
    use_case: "UseCase"
    tools: "Tools"
    now: datetime


def ingest(asked: argparse.Namespace, settings: Settings) -> None:
    """Run the flow that the DAG runs, for every table."""
    from pipelines import flows

    here = _bench(asked, settings)
    ledgers = [flows.ingestion(here.do, table.name, here.now) for table in here.use_case.tables]
    if asked.json:
        return write_json([ledger.model_dump(mode="json") for ledger in ledgers])
    return write_ledgers(ledgers)


def train(asked: argparse.Namespace, settings: Settings) -> None:
    """Make a candidate."""
    from pipelines.steps.snapshot import take_snapshot
    from pipelines.steps.train import train as fit

    here, wish = _bench(asked, settings), _wished(asked)
    candidate = here.do(fit)(here.do(take_snapshot)(wish, here.now), wish, here.now)
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in candidate.metrics.items())
    said = "was trained before as" if candidate.found else "is"
    _tell(asked, candidate, f"the candidate {said} run {candidate.run_id}: {metrics}")


def gate(asked: argparse.Namespace, settings: Settings) -> None:
    """Judge; a refused candidate is a final error that says by which numbers it fell."""
    from pipelines.records import Wish
    from pipelines.steps.gate import gate as judge

    here = _bench(asked, settings)
    candidate = _candidate(here, asked.version, lambda each: each.gate is None)
    gated = here.do(judge)(candidate, Wish(force=True))
    _tell(asked, gated.verdict, f"passed: {gated.verdict.reason}")


def build(asked: argparse.Namespace, settings: Settings) -> None:
    """Make and check the bento; it serves when somebody moves the alias champion to its version."""
    from pipelines import flows
    from pipelines.records import Wish
    from pipelines.steps.gate import gate as judge

    here = _bench(asked, settings)
    candidate = _candidate(here, asked.version, lambda each: each.gate is not None and each.gate.passed)
    checked = flows.building(here.do, here.do(judge)(candidate, Wish()))
    version = checked.built.registered.version
    _tell(asked, checked, f"version {version} is {checked.built.tag}; {checked.verdict.reason}")


def retrain(asked: argparse.Namespace, settings: Settings) -> None:
    """Run the flow that the DAG runs."""
    from pipelines import flows

    here = _bench(asked, settings)
    promotion = flows.retraining(here.do, _wished(asked), here.now)
    _tell(asked, promotion, promotion.reason)


def backtest(asked: argparse.Namespace, settings: Settings) -> None:
    """Train and answer window after window; nothing is recorded."""
    from pipelines.records import Wish
    from pipelines.steps.backtest import backtest as roll
    from pipelines.steps.snapshot import take_snapshot

    here = _bench(asked, settings)
    told = roll(
        here.tools, here.use_case, here.do(take_snapshot)(Wish(reason="backtest"), here.now), asked.windows
    )
    _tell(asked, told, "\n".join(_lines(told)))


def _lines(told: "Backtest") -> "list[str]":
    names = list(told.windows[0].metrics)
    head = f"{'from':<12}{'to':<12}{'learnt':>8}{'judged':>8}" + "".join(f"{name:>12}" for name in names)
    rows = [
        f"{one.start:%Y-%m-%d}  {one.end:%Y-%m-%d}  {one.learnt:>8,}{one.judged:>8,}"
        + "".join(f"{one.metrics[name]:>12.4f}" for name in names)
        for one in told.windows
    ]
    whole = told.whole
    summary = [f"all {whole.rows:,} rows: {whole.metric} {whole.candidate:.5f}"]
    if whole.against_baseline is not None:
        summary.append(f"without a model {whole.baseline:.5f}; difference {_interval(whole.against_baseline)}")
    summary += [f"{each.output}: calibration error {each.error:.4f}" for each in whole.calibration]
    return [head, *rows, *summary]


def _interval(interval: "Interval") -> str:
    return f"{interval[0]:+.5f} [{interval[1]:+.5f}, {interval[2]:+.5f}]"


def _wished(asked: argparse.Namespace) -> "Wish":
    from pipelines.records import Wish

    force = getattr(asked, "force", False)
    return Wish(reason=asked.reason, as_of=asked.as_of, snapshot=asked.snapshot, force=force)


def _candidate(here: Bench, version: str | None, wanted: "Callable[[Evidence], bool]") -> "Candidate":
    """That of a version; else the newest that is wanted, else the newest."""
    from pipelines.steps.adopt import adopt
    from pipelines.steps.train import candidate_of

    if version is not None:
        return adopt(here.tools, here.use_case, version)
    every = here.tools.evidence.candidates(here.use_case.name)
    if not every:
        raise NotEnoughData(f"{here.use_case.name}: nothing was trained yet: `touchline train`")
    return candidate_of(([each for each in every if wanted(each)] or every)[-1], found=True)


def _bench(asked: argparse.Namespace, settings: Settings) -> Bench:
    from pipelines import runner, wiring

    logging.getLogger("pipelines").setLevel(logging.INFO)
    name = asked.use_case or settings.use_case
    use_case, tools = wiring.use_case(settings, name), wiring.tools(settings, name)
    return Bench(runner.here(tools, use_case), use_case, tools, datetime.now(UTC))


def _tell(asked: argparse.Namespace, record: "Frozen", words: str) -> None:
    """The record for programs, words for people."""
    if asked.json:
        return write_json(record.model_dump(mode="json"))
    sys.stdout.write(f"{words}\n")
    return None
