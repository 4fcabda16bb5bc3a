"""The flows, here and without Airflow: ingest, retrain."""

import argparse
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.commands import declare, name_use_case, write_json, write_ledgers
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.flows import Runner
    from pipelines.spec import UseCase


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    for name, run, told in (
        ("ingest", ingest, "read new files, validate them, publish the good rows; here, without Airflow"),
        (
            "retrain",
            retrain,
            "train, gate, build, check, ask to serve; here, without Airflow",
        ),
    ):
        name_use_case(declare(commands, name, run, told))


def ingest(asked: argparse.Namespace, settings: Settings) -> None:
    """Run the flow that the DAG runs, for every table."""
    from pipelines import flows

    do, use_case = _runner(asked, settings)
    now = datetime.now(UTC)
    ledgers = [flows.ingestion(do, table.name, now) for table in use_case.tables]
    if asked.json:
        return write_json([ledger.model_dump(mode="json") for ledger in ledgers])
    return write_ledgers(ledgers)


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
