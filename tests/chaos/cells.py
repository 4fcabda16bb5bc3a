"""The cells that make sense: what can die while what is under way."""

from collections.abc import Collection
from typing import NamedTuple

from tests.chaos.faults import FAULTS, SERVICES, Fault
from tests.chaos.moments import MOMENTS, Moment


class Cell(NamedTuple):
    """One fault during one moment."""

    fault: Fault
    moment: Moment


QUICK = ("place", *SERVICES, "proxy")
"""At rest in `make test`."""
WALKED = {
    "ingest: receive": ("task",),
    "ingest: validate": ("task", "executor's worker"),
    "ingest: publish": ("task", "postgres", "airflow-scheduler"),
    "ingest: hand over": ("task", "postgres"),
    "Delta commit": (
        "task", "executor's worker", "airflow-scheduler", "scheduler, all of it", "airflow-api-server", "postgres",
        "reboot",
    ),
    "two runs at once": ("nobody", "task"),
    "retrain: train": ("task", "scheduler, all of it", "postgres", "database away 30 s"),
    "MLflow write": ("task", "mlflow", "mlflow away 30 s", "postgres", "reboot"),
    "retrain: gate": ("task",),
    "retrain: register": ("task", "mlflow"),
    "retrain: build": ("task",),
    "retrain: check": ("task", "executor's worker"),
    "swap: coming": ("coming place", "place", "reconciler", "mlflow", "postgres", "proxy", "reboot"),
    "swap: leaving": ("place", "reconciler", "proxy"),
    "rollout: prepared": ("coming place", "reconciler", "reboot"),
    "rollout: shadow": ("canary", "judge", "reconciler", "mlflow", "postgres", "reboot"),
    "rollout: canary": (
        "canary", "place", "judge", "reconciler", "mlflow away 30 s", "database away 30 s", "proxy restarted",
        "reboot",
    ),
    "rollout: full": ("coming place", "reconciler", "postgres", "reboot"),
    "rollout: watch": ("place", "previous place", "judge", "reconciler", "postgres", "reboot"),
    "alias move": ("reconciler", "mlflow", "postgres", "reboot"),
    "shipping": ("shipper", "postgres", "reboot"),
    "label join": ("shipper", "postgres"),
    "quarantine replay": ("command", "postgres"),
    "at rest": (
        "disk full", "supervisord", "reboot", *QUICK, "scheduler, all of it", "scheduler's keeper",
        "database's keeper", "database away 30 s", "database hangs 30 s", "proxy restarted",
    ),
}  # fmt: skip
"""What is killed, by moment."""


def cells(killed: Collection[str] = (), during: Collection[str] = ()) -> list[Cell]:
    """All of them, or those that are asked for."""
    return [
        Cell(FAULTS[fault], MOMENTS[moment])
        for moment, faults in WALKED.items()
        for fault in faults
        if (not killed or fault in killed) and (not during or moment in during)
    ]


def cell_of(killed: str, during: str) -> Cell:
    """By its names."""
    (found,) = cells({killed}, {during})
    return found
