"""Walks cells on one running stack: wait for the moment, strike, wait for the work's end, ask every law."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pipelines.errors import ServiceAway
from tests.chaos import laws
from tests.chaos.cells import Cell
from tests.chaos.faults import Skipped
from tests.chaos.live import PATIENCE, Live, until
from tests.chaos.moments import Missed, Work, catch

TRIES = 4
"""How often a middle that was missed is sought again."""
HELD, BROKEN, MISSED, SKIPPED = "held", "BROKEN", "missed", "skipped"


class Law(NamedTuple):
    """What must hold, and where one looks for it."""

    name: str
    look: Callable[[Live], Iterable[Any]]
    broken: Callable[[Any], laws.Told]


LAWS = (
    Law("L7 the wish is true", lambda live: [live.wish()], laws.the_wish_is_true),
    Law("L1 rows are conserved", Live.rows, laws.rows_are_conserved),
    Law("L2 rows have one order", Live.rows, laws.rows_have_one_order),
    Law("L2 trainings are done once", lambda live: [live.releases()], laws.trainings_are_done_once),
    Law("L3 only the tested serves", lambda live: [live.releases()], laws.only_the_tested_serves),
    Law("L6 answers are logged once", lambda live: [live.log()], laws.answers_are_logged_once),
    Law("L6 labels count once", lambda live: [live.log()], laws.labels_count_once),
)
"""Those that may take a while to be true again; what clients had to pay is settled at once."""


class Outcome(NamedTuple):
    """What became of one cell."""

    cell: Cell
    verdict: str
    seconds: float | None = None
    """From the strike to the moment when every law held, the interrupted work done."""
    told: str | None = None
    """The law that is broken and how; why it was skipped."""
    refused: float = 0.0
    """Seconds from the first refused request to the last."""

    def as_json(self) -> dict[str, object]:
        """What programs read."""
        return {
            "killed": self.cell.fault.name,
            "during": self.cell.moment.name,
            "held": {HELD: True, BROKEN: False}.get(self.verdict),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "broken_law": self.told,
        }


def walk(live: Live, cell: Cell, tries: int = TRIES) -> Outcome:
    """One cell; a middle that was missed again and again is said, and never counted as held."""
    for _ in range(tries):
        with cell.moment.begin(live) as work:
            try:
                began = strike(live, cell, work)
            except Skipped as why:
                return Outcome(cell, SKIPPED, told=str(why))
            except (Missed, ServiceAway):
                work.finish()
                continue
            except (AssertionError, TimeoutError) as wrong:
                live.seen_failures = len(live.client.failures)
                return Outcome(cell, BROKEN, told=f"the fault itself: {wrong}")
            told = settle(live, cell, work)
            seconds = time.monotonic() - began - cell.fault.lasts
            refused = live.outage_seconds()
            live.seen_failures = len(live.client.failures)
            return Outcome(cell, BROKEN if told else HELD, seconds, told, refused)
    return Outcome(cell, MISSED, told=f"its middle was missed {tries} times")


def strike(live: Live, cell: Cell, work: Work) -> float:
    """In the middle of the work; when that was."""
    with catch(work):
        began, live.struck = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
        cell.fault.strike(live)
    return began


def settle(live: Live, cell: Cell, work: Work) -> str | None:
    """Which law stays broken, and how; None when all hold."""
    try:
        work.finish()
    except (AssertionError, TimeoutError) as wrong:
        return f"L7 the work comes to its end: {wrong}"
    live.note_due()
    for law in LAWS:
        if (told := stays_broken(live, law)) is not None:
            return f"{law.name}: {told}"
    told = laws.clients_do_not_pay(live.requests(cell.fault.outage))
    return None if told is None else f"L8 clients do not pay: {told}"


def stays_broken(live: Live, law: Law) -> str | None:
    """What is broken still when all patience is spent."""
    last: list[str | None] = ["nobody could be asked"]

    def holds() -> bool:
        last[0] = next((told for seen in law.look(live) if (told := law.broken(seen)) is not None), None)
        return last[0] is None

    try:
        until(holds, law.name, PATIENCE)
    except TimeoutError:
        return last[0]
    return None


def ready(live: Live) -> None:
    """Every law holds before the first strike."""
    live.note_due()
    for law in LAWS:
        if (told := stays_broken(live, law)) is not None:
            raise AssertionError(f"before any fault: {law.name}: {told}")
    live.seen_failures = len(live.client.failures)
