"""`python -m tests.load.rollout [--rate R]`: clients beside a rollout, `.results/rollout.json`.

An open loop of 200 requests a second goes on while a challenger walks through ten weights (its place is killed at
one of them), gets all requests, and is taken back by hand. What must hold: no request failed; at each weight the
challenger's share lies within two points of the plan; a key that has moved to the canary stays there, but while
its arm was down. Exit code 1 where one of these does not.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from pipelines.adapters.postgres_book import PostgresBook
from pipelines.adapters.postgres_rollouts import PostgresRollouts
from pipelines.rollout.stages import Entry
from pipelines.serving.place import is_ready
from pipelines.simulation.drive import Asked
from tests.conftest import wait_for
from tests.e2e import conftest as world
from tests.e2e.conftest import Stack
from tests.e2e.swift import Code, ended, trained, under_way, write
from tests.load.__main__ import process_of, say
from tests.load.generator import Load, loading

RESULTS = Path(".results")
NAME = "swift"
WEIGHTS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 75)
SECONDS = 60
"""How long each weight lasts at least: 12,000 requests tell a share to half a point."""
POINTS = 2.0
KILLED_AT = "canary 20 %"
SETTLING = 1.0
"""Seconds around a change in which a request may be of either side of it."""
LIMIT = 600


class Seen(NamedTuple):
    """One weight, as the clients saw it."""

    percent: float
    requests: int
    share: float
    """Percent of them that the challenger answered."""


def main() -> int:
    """Run it; 1 when a client paid, a share was off, or a key went to and fro."""
    words = argparse.ArgumentParser(prog="python -m tests.load.rollout", description=__doc__)
    words.add_argument("--rate", type=float, default=200, help="requests a second (200)")
    given = words.parse_args()
    with world.stack_of_its_own() as stack:
        told = walked(stack, given.rate)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "rollout.json").write_text(json.dumps(told, indent=1) + "\n")
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    off = [each for each in told["weights"] if abs(each["share"] - each["percent"]) > POINTS]
    return 1 if told["failed"] or told["flips"] or off else 0


def walked(stack: Stack, rate: float) -> dict[str, Any]:
    """The whole way up, and back."""
    write(stack)
    stack.run("ingest", NAME)
    trained(stack)
    wait_for(lambda: PostgresBook(stack.settings.database).serving(NAME).version, "the first version", LIMIT)
    ramp = Code(f"tuple(Stage(weight=w, time={SECONDS} * SECOND, requests=1) for w in {WEIGHTS})")
    version = trained(stack, TREES=40, SEED=1, STAGES=ramp)
    with loading(stack, rate, (len(WEIGHTS) + 6) * (SECONDS + 6), use_case=NAME) as load:
        down = killed(stack, load)
        wait_for(lambda: under_way(stack) == (version, "watch"), "the promotion", LIMIT)
        say(f"promoted, {load.so_far()}")
        stack.run("rollout", "rollback", NAME, "--why", "the way back")
        wait_for(lambda: ended(stack, version), "the way back", LIMIT)
        say(f"rolled back, {load.so_far()}")
        load.until(load.now() + SECONDS)
        load.stop()
    changes = PostgresRollouts(stack.settings.database).changes(NAME, _began(stack))
    return summary(load, changes, down)


def _began(stack: Stack) -> Any:
    return PostgresRollouts(stack.settings.database).past(NAME)[0].began


def killed(stack: Stack, load: Load) -> tuple[float, float]:
    """Kill the canary's process at one weight; when it was down, in seconds of the load."""
    book = PostgresBook(stack.settings.database)

    def there() -> bool:
        rollout = book.serving(NAME).rollout
        return rollout is not None and rollout.label == KILLED_AT

    wait_for(there, KILLED_AT, LIMIT)
    load.until(load.now() + SECONDS / 2)
    (place,) = book.serving(NAME).of("canary")
    name = f"place-{NAME}-{place.line}-{place.port}"
    old, start = process_of(stack, name), load.now()
    psutil.Process(old).kill()
    wait_for(lambda: process_of(stack, name) not in {0, old}, "the canary to be back", LIMIT)
    wait_for(lambda: is_ready(place.port), "the canary to be ready", LIMIT)
    say(f"canary killed and back after {load.now() - start:.1f} s, {load.so_far()}")
    return start, load.now()


def summary(load: Load, changes: Sequence[Entry], down: tuple[float, float]) -> dict[str, Any]:
    """What clients saw, beside what the plan says."""
    codes = [code for each in load.asked for code in each.codes]
    seen = [_seen(load, *span) for span in spans(load, changes)]
    return {
        "requests": len(load.asked),
        "failed": len(codes),
        "codes": sorted(set(codes)),
        "canary_down_seconds": round(down[1] - down[0], 1),
        "weights": [each._asdict() for each in seen],
        "worst_points": max(abs(each.share - each.percent) for each in seen),
        "keys": len({each.key for each in load.asked}),
        "flips": flips(load, changes, down),
    }


def spans(load: Load, changes: Sequence[Entry]) -> Iterator[tuple[float, float, float]]:
    """(percent, from, to) of each weight, in seconds of the load, without the moment of the change itself."""
    for now, then in pairwise(changes):
        if (now.stage_after or "").startswith("canary"):
            yield now.percent, load.at(now.at) + SETTLING, load.at(then.at) - SETTLING


def _seen(load: Load, percent: float, start: float, end: float) -> Seen:
    some = [each for each in load.asked if start <= each.at < end]
    share = 100 * sum(each.role == "canary" for each in some) / max(len(some), 1)
    return Seen(percent, len(some), round(share, 2))


def flips(load: Load, changes: Sequence[Entry], down: tuple[float, float]) -> int:
    """Keys that left the canary while weights rose, other than while it was down."""
    up = list(spans(load, changes))
    moved: set[str] = set()
    gone = 0
    for each in sorted(load.asked, key=_at):
        if each.key is None or not up[0][1] <= each.at < up[-1][2] or _near(each, down):
            continue
        if each.role == "canary":
            moved.add(each.key)
        elif each.key in moved:
            gone += 1
    return gone


def _at(each: Asked) -> float:
    return each.at


def _near(each: Asked, down: tuple[float, float]) -> bool:
    return down[0] - SETTLING <= each.at <= down[1] + SETTLING


if __name__ == "__main__":
    sys.exit(main())
