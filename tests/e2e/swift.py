"""Use cases whose rollouts take seconds, on a running stack: their versions and rollouts, a stream of rows."""

import json
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.adapters.postgres_book import PostgresBook
from pipelines.adapters.postgres_rollouts import Past, PostgresRollouts
from pipelines.rollout.serving import Serving
from tests.conftest import wait_for
from tests.e2e.conftest import Stack

CASES = Path(__file__).parents[1] / "cases"
LIMIT = 240


class Code(str):
    """A value as it stands in the file."""

    def __repr__(self) -> str:
        return str(self)


def write(stack: Stack, case: str = "swift", **changed: object) -> None:
    """The use case as its next version is to be trained; what is not named is as it was first."""
    text = (CASES / f"{case}.py").read_text()
    for name, value in changed.items():
        text, n = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", text)
        assert n == 1, name
    (stack.cases / f"{case}.py").write_text(text)


def trained(stack: Stack, case: str = "swift", **changed: object) -> str:
    """A new version that passed gate and check; its number."""
    write(stack, case, **changed)
    told = stack.run("retrain", case)
    found = re.search(r"version (\d+) passed gate and check", told)
    assert found, told
    return found[1]


def answering(stack: Stack, case: str = "swift") -> str | None:
    """The version that answers a request; None before the first. What is recorded is so a moment later."""
    said = stack.ask(f"/{case}/model")
    return said.body["version"] if said.status == 200 else None


def rollout(stack: Stack, case: str = "swift") -> dict[str, Any]:
    """What `touchline rollout status` tells."""
    told: dict[str, Any] = json.loads(stack.run("rollout", "status", case, "--json"))
    return told


def serving(stack: Stack, case: str = "swift") -> Serving:
    """What the reconciler recorded; asked here, because a command for each look would burn what is measured."""
    return PostgresBook(stack.settings.database).serving(case)


def under_way(stack: Stack, case: str = "swift") -> tuple[str, str] | None:
    """(version, stage) of the rollout."""
    found = serving(stack, case).rollout
    return None if found is None else (found.version, found.stage)


def ended(stack: Stack, version: str, case: str = "swift") -> Past | None:
    """The end of that version's rollout; None while it lasts."""
    past = PostgresRollouts(stack.settings.database).past(case)
    return next((each for each in past if each.version == version and each.ended_at), None)


def until_ended(stack: Stack, version: str, case: str = "swift") -> Past:
    """Wait for it."""
    wait_for(lambda: ended(stack, version, case), f"the rollout of version {version} to end", LIMIT)
    found = ended(stack, version, case)
    assert found
    return found


@contextmanager
def streaming(stack: Stack, case: str = "swift", rate: int = 60) -> Generator[None]:
    """Real rows and their labels, a second later on average."""
    words = [sys.executable, "-m", "pipelines.cli", "simulate", case, "--rate", str(rate), "--duration", "15m"]
    words += ["--label-delay", "exp:1s", "--seed", "5"]
    process = subprocess.Popen(words, env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
        assert process.poll() is None, process.communicate()[0]
    finally:
        process.terminate()
        process.communicate(timeout=60)
