"""The order of the steps, written once, for every runner."""

from collections.abc import Callable
from datetime import datetime
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from pipelines.records import Checked, Gated, Ledger, Promotion, Wish
from pipelines.spec import UseCase
from pipelines.steps.build import build
from pipelines.steps.check import check
from pipelines.steps.gate import gate
from pipelines.steps.hand_over import hand_over
from pipelines.steps.promote import promote
from pipelines.steps.publish import publish
from pipelines.steps.receive import receive
from pipelines.steps.register import register
from pipelines.steps.snapshot import take_snapshot
from pipelines.steps.train import train
from pipelines.steps.validate import validate
from pipelines.tools import Tools

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Runner(Protocol):
    """Decides where a step runs: here and now, or as a task of a scheduler."""

    def __call__(self, step: Callable[Concatenate[Tools, UseCase, Given], Result]) -> Callable[Given, Result]:
        """Return the step without its tools and its use case."""


def ingestion(do: Runner, table: str, now: datetime) -> Ledger:
    """From new files to published rows, and to the labels that they tell."""
    arrivals = do(receive)(table, now)
    checked = do(validate)(arrivals, now)
    published = do(publish)(checked)
    return do(hand_over)(published)


def retraining(do: Runner, wish: Wish, now: datetime) -> Promotion:
    """From published rows to a version that may serve."""
    snapshot = do(take_snapshot)(wish, now)
    candidate = do(train)(snapshot, wish, now)
    checked = building(do, do(gate)(candidate, wish))
    return do(promote)(checked, wish, now)


def building(do: Runner, gated: Gated) -> Checked:
    """From a candidate that passed the gate to a bento that answers like it."""
    registered = do(register)(gated)
    built = do(build)(registered)
    return do(check)(built)
