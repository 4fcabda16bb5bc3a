"""`python -m tests.chaos [--only KILLED] [--during MOMENT]`: every cell on one stack; a matrix, the same as JSON.

The table goes to standard output and `.results/chaos.txt`, the list to `.results/chaos.json`.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import catalog
from pipelines.machine import postgres
from pipelines.machine.front import interruptible
from tests.chaos.cells import WALKED, cells
from tests.chaos.disk import small_disk
from tests.chaos.drops import Drops
from tests.chaos.faults import FAULTS
from tests.chaos.live import NAME, Live
from tests.chaos.runner import BROKEN, HELD, MISSED, Outcome, ready, walk
from tests.e2e.clients import asking
from tests.e2e.conftest import Stack, free_block

RESULTS = Path(".results")
DISK = "3g"
"""Room for a home; a start asks for 2 GiB."""
CLIENTS, PAUSE, LABEL_EVERY = 2, 0.03, 20


def main() -> int:
    """0 when every cell held (or was skipped, with its reason)."""
    words = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    words.add_argument(
        "--only",
        metavar="KILLED",
        choices=sorted(FAULTS),
        action="append",
        help="this fault only; may be repeated",
    )
    words.add_argument(
        "--during",
        metavar="MOMENT",
        choices=list(WALKED),
        action="append",
        help="this moment only; may be repeated",
    )
    asked = words.parse_args()
    chosen = cells(asked.only or (), asked.during or ())
    if not chosen:
        words.error("there is no such cell: " + "; ".join(f"{m}: {', '.join(f)}" for m, f in WALKED.items()))
    began = time.monotonic()
    outcomes: list[Outcome] = []
    try:
        with interruptible(), stack() as live:
            for cell in chosen:
                outcomes.append(walk(live, cell))
                say(line(outcomes[-1]))
    finally:
        keep(outcomes, time.monotonic() - began)
    return int(len(outcomes) < len(chosen) or any(one.verdict in {BROKEN, MISSED} for one in outcomes))


@contextmanager
def stack() -> Generator[Live, None, None]:
    """A stack with two versions and clients that ask all the time; gone afterwards, whole."""
    at = Path(tempfile.mkdtemp(prefix="tl-chaos-"))
    data, use_case = at / "drop", catalog.load(NAME)
    data.mkdir()
    drops = Drops(data, use_case)
    drops.write(0)
    running = Stack(at / "home", free_block(), data)
    try:
        with small_disk(at / "home", DISK) as no_disk:
            try:
                yield from _served(running, drops, no_disk)
            finally:
                running.run("down", code=None)
                postgres.remove(running.settings.at)
    finally:
        shutil.rmtree(at)


def _served(running: Stack, drops: Drops, no_disk: str) -> Iterator[Live]:
    """What was promised, with a second version to swap to."""
    say("starting the stack")
    running.run("up", "--detach")
    with asking(running.settings.ports.proxy, running.row(), CLIENTS, LABEL_EVERY, PAUSE) as client:
        live = Live(running, client, drops, no_disk)
        live.rest._call("PATCH", f"/dags/labels_{NAME}?update_mask=is_paused", {"is_paused": True})
        live.drop()
        live.ingest_here()
        running.run("retrain")
        running.run("rollout", "promote", NAME)
        ready(live)
        say("every law holds; now the faults")
        yield live


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line(one: Outcome) -> str:
    """A cell as it ended."""
    took = "" if one.seconds is None else f"{one.seconds:6.1f} s"
    refused = f"  refused for {one.refused:.1f} s" if one.refused else ""
    return f"{one.verdict:<8}{took:>9}  {one.cell.fault.name} / {one.cell.moment.name}{refused}  {one.told or ''}"


def keep(outcomes: list[Outcome], seconds: float) -> None:
    """The matrix for people, the list for programs."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "chaos.json").write_text(json.dumps([one.as_json() for one in outcomes], indent=1) + "\n")
    table = matrix(outcomes) + f"\n{summary(outcomes)}, {seconds / 60:.0f} min\n"
    (RESULTS / "chaos.txt").write_text(table)
    say(table)


def summary(outcomes: list[Outcome]) -> str:
    """How many of each verdict."""
    counts = {one.verdict: sum(each.verdict == one.verdict for each in outcomes) for one in outcomes}
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items())


def matrix(outcomes: list[Outcome]) -> str:
    """Rows: what was killed. Columns: where, by number."""
    columns = list(dict.fromkeys(one.cell.moment.name for one in outcomes))
    rows = list(dict.fromkeys(one.cell.fault.name for one in outcomes))
    found = {(one.cell.fault.name, one.cell.moment.name): one for one in outcomes}
    legend = [f"{number:>3} {name}" for number, name in enumerate(columns, 1)]
    head = f"{'killed':<24}" + "".join(f"{number:>9}" for number in range(1, len(columns) + 1))
    body = [f"{row:<24}" + "".join(f"{shown(found.get((row, name))):>9}" for name in columns) for row in rows]
    refused = [f"{line(one)}" for one in outcomes if one.refused or one.verdict != HELD]
    return "\n".join(["during:", *legend, "", head, *body, "", *refused])


def shown(one: Outcome | None) -> str:
    """Seconds where it held."""
    if one is None:
        return "."
    return one.verdict if one.verdict != HELD or one.seconds is None else f"{one.seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
