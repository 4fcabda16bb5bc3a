"""Pictures of rollouts, beside the training runs of their versions: `python -m pipelines.rollout.pictures`.

A process of its own draws them, because what draws takes much memory and is needed seldom.
"""

import logging
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines import wiring
from pipelines.adapters.postgres_rollouts import PostgresRollouts
from pipelines.settings import Settings

log = logging.getLogger("pipelines.rollout.pictures")
AGE = timedelta(days=60)
"""Rollouts that began longer ago are not drawn any more."""
SECONDS = 20.0
"""Between two looks for changes."""


class Pictures:
    """Starts the drawing process where a rollout has changed since its picture was made."""

    def __init__(self, settings: Settings) -> None:
        self.rollouts = PostgresRollouts(settings.database)
        self.drawing: subprocess.Popen[bytes] | None = None
        self.due = 0.0

    def round(self) -> None:
        """At most one at a time; one that fails is tried again later."""
        if self.drawing is not None and self.drawing.poll() is None:
            return
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + SECONDS
        if self.rollouts.unpictured(AGE):
            self.drawing = subprocess.Popen([sys.executable, "-m", "pipelines.rollout.pictures"])


def draw(settings: Settings, rollouts: PostgresRollouts, now: datetime) -> int:
    """Draw every rollout that has changed; how many. ServiceAway while MLflow or the database is."""
    from pipelines.adapters.rollout_plot import draw_rollout

    done, store = 0, wiring.store(settings)
    for past in rollouts.unpictured(AGE):
        changes, looks = rollouts.changes(past.use_case, past.began), rollouts.looks(past.use_case, past.began)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"rollout_{past.began:%Y%m%dT%H%M%S}.png"
            draw_rollout(file, past.version, changes, looks)
            store.keep(store.run_of(past.use_case, past.version), file, "rollout")
        rollouts.pictured(past.use_case, past.began, now)
        done += 1
    return done


def main() -> None:
    """Draw what is to be drawn, and end."""
    settings = wiring.settings()
    done = draw(settings, PostgresRollouts(settings.database), datetime.now(UTC))
    log.info("drawn=%d", done)


if __name__ == "__main__":
    main()
