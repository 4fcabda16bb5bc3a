"""`python -m pipelines.rollout`: reconcile this home until the end; a service that is away is waited for."""

import logging
import time
from datetime import UTC, datetime

from pipelines import wiring
from pipelines.adapters.postgres_book import kept
from pipelines.errors import TouchlineError
from pipelines.rollout.reconciler import Reconciler

log = logging.getLogger("pipelines.rollout")
PAUSE_SECONDS = 2.0


def main() -> None:
    """One leader at a time, by a lock in the database."""
    settings = wiring.settings()
    reconciler, leader = wiring.reconciler(settings), wiring.locks(settings)
    while True:
        try:
            with leader.hold("reconciler"), kept(settings.database):
                log.info("this process reconciles %s", settings.home)
                run(reconciler)
        except TouchlineError as away:
            log.warning("%s", away)
            time.sleep(PAUSE_SECONDS)


def run(reconciler: Reconciler) -> None:
    """Rounds without end; an error ends the leadership, so that another may try."""
    while True:
        reconciler.round(datetime.now(UTC))
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
