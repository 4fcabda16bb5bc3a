"""The retrain DAG on a real stack, beside the same flow in one process.

Both are forced and find the training that was done before, so both do the same: snapshot, look-up of the
candidate, gate, registry, bento, its check on a started place, the request. What the DAG takes longer is what
Airflow costs.
"""

import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from pipelines import flows, wiring
from pipelines.adapters.airflow_rest import AirflowRest, of_home, wait_for_run
from pipelines.records import Wish
from pipelines.runner import here
from tests.benchmarks import Report, Result, compared
from tests.e2e import conftest as world
from tests.e2e.conftest import Stack

DAG, TURNS = "retrain_calories", 4


def run() -> Report:
    """Measure; about four minutes, half of them to start the stack."""
    home, data = Path(tempfile.mkdtemp(prefix="tl-bench-")), Path(tempfile.mkdtemp(prefix="tl-drop-"))
    stack = Stack(home / "home", world.free_block(), data)
    world.fill(data, 0)
    try:
        began = time.monotonic()
        stack.run("up", "--detach")
        return Report([*_compared(stack), _started(time.monotonic() - began)])
    finally:
        stack.run("down", "--purge")
        shutil.rmtree(home)
        shutil.rmtree(data)


def _compared(stack: Stack) -> list[Result]:
    airflow = of_home(stack.settings)
    pairs, tasks = [], 0
    for turn in range(TURNS + 1):
        alone = _alone(stack)
        seconds, tasks = _dag(airflow)
        if turn:  # the first turn imports
            pairs.append((alone, seconds))
    over = [(1.0, (seconds - alone) / tasks) for alone, seconds in pairs]
    return [
        compared("retraining by its DAG", "s", "the same flow in one process", pairs, "", TURNS),
        compared(f"what Airflow adds to each of its {tasks} tasks", "s", "a second", over, "", TURNS * tasks),
    ]


def _started(seconds: float) -> Result:
    return compared("`touchline up` on an empty home", "s", "a minute", [(60.0, seconds)], "", 1)


def _alone(stack: Stack) -> float:
    tools = wiring.tools(stack.settings, "calories")
    use_case = wiring.use_case(stack.settings, "calories")
    began = time.perf_counter()
    flows.retraining(here(tools, use_case), Wish(reason="measured", force=True), datetime.now(UTC))
    return time.perf_counter() - began


def _dag(airflow: AirflowRest) -> tuple[float, int]:
    """Seconds from the request to its end, and how many tasks it has."""
    began = time.perf_counter()
    started = airflow.trigger(DAG, {"force": True, "reason": "measured"})
    state = wait_for_run(airflow, DAG, started, 0.1)
    seconds = time.perf_counter() - began
    tasks = airflow.tasks(DAG, started)
    assert state == "success", [(each.task, each.state) for each in tasks]
    sys.stderr.write("  " + ", ".join(f"{each.task}" for each in tasks) + f": {seconds:.1f} s\n")
    return seconds, len(tasks)
