"""Runs one step of one use case with the real tools, under its lock, with a line before and after."""

import logging
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from pipelines.flows import Runner
from pipelines.spec import UseCase
from pipelines.tools import Tools

Given = ParamSpec("Given")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def perform(tools: Tools, use_case: UseCase, step: Callable[..., Result], *given: Any) -> Result:
    """Run the step; a second run of the same step waits until the first is done."""
    name = getattr(step, "__name__", str(step))
    began = time.monotonic()
    log.info("%s %s starts", use_case.name, name)
    with tools.locks.hold(f"{use_case.name}:{name}"):
        result = step(tools, use_case, *given)
    log.info("%s %s done in %.1f s", use_case.name, name, time.monotonic() - began)
    return result


def here(tools: Tools, use_case: UseCase) -> Runner:
    """Run every step in this process, at once."""

    def do(step: Callable[Concatenate[Tools, UseCase, Given], Result]) -> Callable[Given, Result]:
        def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            return perform(tools, use_case, step, *args)

        return run

    return do
