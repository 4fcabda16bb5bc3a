"""`python -m tests.load [--minutes M] [--swaps N] [--kills K] [--rate R]`: `.results/load.json` and a chart.

Phases on one real stack: calm; the load through swaps and kills; the same load while dummy processes start and
burn the CPU that a swap's places burn; bursts of five times the rate through swaps. Exit code 1 when a request
failed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from mlflow import MlflowClient

from pipelines.adapters.postgres_book import PostgresBook
from pipelines.machine.supervisor import Supervisor
from pipelines.rollout.serving import Place, Serving
from pipelines.serving.place import is_ready
from pipelines.simulation.drive import Asked
from pipelines.simulation.plan import Phase
from tests.conftest import wait_for
from tests.e2e import conftest as world
from tests.e2e.conftest import Stack
from tests.load import chart
from tests.load.generator import Load, loading

RESULTS = Path(".results")
KINDS = {"swap": "swaps", "kill": "kills", "dummy": "dummies"}
CALM_SECONDS = 30
AFTER_SECONDS = 1.0
"""How long a swap's or a dummy's window goes on after its end."""
BURST = Phase(factor=5, length=2, period=15)


class Window(NamedTuple):
    """When something happened, in seconds of the load."""

    what: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.start


def main() -> int:
    """Run all phases; 1 when a request failed."""
    words = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    words.add_argument("--minutes", type=float, default=10, help="of the load through swaps (10)")
    words.add_argument("--swaps", type=int, default=20)
    words.add_argument("--kills", type=int, default=5)
    words.add_argument("--rate", type=float, default=200, help="requests a second (200)")
    given = words.parse_args()
    with running() as stack:
        told, loads = phases(stack, given)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "load.json").write_text(json.dumps(told, indent=1) + "\n")
    chart.draw(loads, RESULTS / "load.png")
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 1 if any(phase["failed"] for phase in told.values() if "failed" in phase) else 0


def phases(stack: Stack, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, tuple[Load, list[Window]]]]:
    """What each phase showed, and its requests."""
    loads: dict[str, tuple[Load, list[Window]]] = {}
    with loading(stack, given.rate, CALM_SECONDS) as load:
        load.wait()
    loads["calm"] = load, []
    with loading(stack, given.rate, given.minutes * 60) as load:
        loads["swaps"] = load, swaps(stack, load, given)
    swapped = [each for each in loads["swaps"][1] if each.what == "swap"]
    length = float(np.median([each.seconds for each in swapped]))
    cpu = place_cpu(stack)
    with loading(stack, given.rate, 8 * (length + 2)) as load:
        loads["dummy"] = load, dummies(load, length, cpu)
    with loading(stack, given.rate, 90, BURST) as load:
        loads["bursts"] = load, swaps(stack, load, argparse.Namespace(swaps=3, kills=0, minutes=1.5))
    told: dict[str, Any] = {name: summary(load.asked, windows) for name, (load, windows) in loads.items()}
    told["setting"] = {"rate": given.rate, "swap_seconds": length, "cpu_seconds_of_a_place": cpu}
    return told, loads


def swaps(stack: Stack, load: Load, given: argparse.Namespace) -> list[Window]:
    """Move the champion to and fro at even times, kill a place between some; until the load ends."""
    registry = MlflowClient(stack.settings.mlflow)
    gap = given.minutes * 60 / (given.swaps + 1)
    kills = {round((place + 1) * given.swaps / (given.kills + 1)) for place in range(given.kills)}
    windows = []
    for number in range(given.swaps):
        load.until(gap * (number + 0.5))
        windows.append(swap(stack, registry, load))
        say(f"swap {number + 1} of {given.swaps}: {windows[-1].seconds:.1f} s, {load.so_far()}")
        if number in kills:
            windows.append(kill(stack, load))
            say(f"a place was killed: {windows[-1].seconds:.1f} s, {load.so_far()}")
    load.wait()
    return windows


def swap(stack: Stack, registry: MlflowClient, load: Load) -> Window:
    """From the moved alias until all that serves is the other version."""
    now = str(registry.get_model_version_by_alias("calories", "champion").version)
    wanted = "1" if now == "2" else "2"
    start = load.now()
    registry.set_registered_model_alias("calories", "champion", wanted)

    def serves() -> bool:
        found = serving(stack)
        return found.version == wanted and [place.role for place in found.places] == ["stable"] * 2

    wait_for(serves, f"version {wanted} to serve", 120)
    return Window("swap", start, load.now())


def serving(stack: Stack) -> Serving:
    """What the reconciler recorded; asked here, because a command of its own would burn what is measured."""
    return PostgresBook(stack.settings.database).serving("calories")


def kill(stack: Stack, load: Load) -> Window:
    """Kill one serving place, as its supervisor knows it; until another process answers in its stead."""
    place, start = serving(stack).places[0], load.now()
    replaced(stack, place)
    return Window("kill", start, load.now())


def replaced(stack: Stack, place: Place) -> int:
    """Kill a place's process and wait for the next one to be ready; its pid."""
    name = f"place-calories-{place.line}-{place.port}"
    old = process_of(stack, name)
    psutil.Process(old).kill()
    new: list[int] = []

    def is_back() -> bool:
        new[:] = [pid for pid in (process_of(stack, name),) if pid and pid != old]
        return bool(new) and is_ready(place.port)

    wait_for(is_back, f"{name} to be ready again", 120)
    return new[0]


def process_of(stack: Stack, name: str) -> int:
    """The pid below a service's keeper, 0 while there is none."""
    keepers = [one.pid for one in Supervisor(stack.settings.at).status() if one.name == name and one.pid]
    return next((pid for keeper in keepers for pid in world.descendants(keeper)), 0)


def place_cpu(stack: Stack) -> float:
    """CPU seconds of a place until it is ready: it is killed, and read when it answers again."""
    times = psutil.Process(replaced(stack, serving(stack).places[0])).cpu_times()
    return round(float(times.user + times.system), 2)


def dummies(load: Load, length: float, cpu: float) -> list[Window]:
    """Two processes at once that import nothing and burn what a place burns to start, again and again."""
    burn = f"import time\nwhile time.process_time() < {cpu}: pass"
    windows = []
    for number in range(8):
        load.until(number * (length + 2) + 1)
        start = load.now()
        burning = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]
        for one in burning:
            one.wait(120)
        windows.append(Window("dummy", start, start + length))
    load.wait()
    return windows


def summary(asked: Sequence[Asked], windows: Sequence[Window]) -> dict[str, Any]:
    """Requests, failures by code, and quantiles: of all, and of those that fell into the windows."""
    inside = [each for each in asked if any(w.start <= each.at <= w.end + AFTER_SECONDS for w in windows)]
    codes = [code for each in asked for code in each.codes]
    kinds = {name: sum(w.what == kind for w in windows) for kind, name in KINDS.items()}
    return {
        "requests": len(asked),
        "failed": len(codes),
        "codes": {code: codes.count(code) for code in sorted(set(codes))},
        **{name: count for name, count in kinds.items() if count},
        "latency_ms": quantiles([each.seconds for each in asked]),
        **({"latency_in_windows_ms": quantiles([each.seconds for each in inside])} if inside else {}),
        "seconds_of_windows": [round(w.seconds, 1) for w in windows],
    }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, p99.9 and the longest, in ms."""
    points = np.quantile(seconds, [0.5, 0.95, 0.99, 0.999, 1.0]) * 1e3
    return {
        name: round(float(at), 2) for name, at in zip(("p50", "p95", "p99", "p99.9", "max"), points, strict=True)
    }


@contextmanager
def running() -> Generator[Stack]:
    """A stack of its own with two versions that may serve; gone afterwards."""
    home, data = Path(tempfile.mkdtemp(prefix="tl-load-")), Path(tempfile.mkdtemp(prefix="tl-drop-"))
    stack = Stack(home / "home", world.free_block(), data)
    try:
        world.fill(data, 0)
        say("starting the stack")
        stack.run("up", "--detach")
        world.fill(data, 1)
        stack.run("ingest")
        stack.run("retrain")
        stack.run("rollout", "promote", "calories")
        wait_for(lambda: stack.case()["champion"] == "2", "the second version to serve", 240)
        yield stack
    finally:
        stack.run("down", "--purge")
        shutil.rmtree(home)
        shutil.rmtree(data)


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    sys.exit(main())
