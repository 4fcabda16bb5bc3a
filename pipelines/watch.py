"""What a person must hear of Airflow's runs: pure, so that every history can be tested.

It stands outside of Airflow, because a scheduler that is dead cannot say that it missed a run.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from croniter import croniter

from pipelines.rollout.stages import Entry
from pipelines.tools import Notice

GRACE = timedelta(minutes=20)
"""How late a run may begin before it counts as missed."""
REMEMBERED = timedelta(days=1)
"""Runs that failed longer ago are nobody's news any more."""
AWAY = timedelta(minutes=3)
"""How long Airflow may be away before a person hears of it."""


class Run(NamedTuple):
    """One run of a DAG."""

    run: str
    state: str
    after: datetime
    """When it was due."""


class Watched(NamedTuple):
    """One DAG, as Airflow tells of it."""

    dag: str
    schedule: str
    """Cron, UTC."""
    paused: bool
    runs: tuple[Run, ...]
    """Newest first."""


def notices(watched: Watched, since: datetime, now: datetime) -> Iterator[Notice]:
    """Failed runs and a missed one; `since` is when the watch began."""
    yield from (_failed(watched.dag, run) for run in watched.runs if _is_news(run, now))
    due = last_due(watched.schedule, now - GRACE)
    if not watched.paused and due > since and not any(run.after >= due for run in watched.runs):
        yield _missed(watched, due, now)


def last_due(schedule: str, before: datetime) -> datetime:
    """The last time at which the schedule asked for a run."""
    return croniter(schedule, before).get_prev(datetime)  # type: ignore[no-any-return]


def airflow_away(since: datetime, now: datetime) -> Iterator[Notice]:
    """Airflow does not answer since then."""
    if now - since >= AWAY:
        yield Notice(
            key=f"airflow away {since.isoformat()}",
            severity="failure",
            title="Airflow does not answer",
            body=f"Since {since:%Y-%m-%d %H:%M} UTC; nothing is ingested or trained, predictions go on. "
            "Look: `touchline doctor`, logs/airflow-*.log",
        )


def of_rollout(entry: Entry) -> Notice:
    """What became of a rollout, or what it waits for."""
    bad = entry.kind == "rolled back"
    asks = {
        "rolled back": "Nothing is to be done for the clients",
        "promoted": "It is watched until its labels are in",
    }
    what = (
        f"`touchline rollout status {entry.use_case}` shows both clocks; the picture lies beside the run in MLflow"
    )
    return Notice(
        key=f"rollout {entry.use_case} {entry.began.isoformat()} {entry.at.isoformat()} {entry.kind}",
        severity="failure" if bad else "warning" if entry.kind == "held" else "info",
        title=f"{entry.use_case}: version {entry.version} {entry.kind}",
        body=f"{entry.why} (by {entry.who}, {entry.at:%Y-%m-%d %H:%M:%S} UTC). "
        f"{asks.get(entry.kind, 'It waits for a person')}. Look: {what}.",
    )


def _is_news(run: Run, now: datetime) -> bool:
    return run.state == "failed" and now - run.after < REMEMBERED


def _failed(dag: str, run: Run) -> Notice:
    return Notice(
        key=f"{dag} failed {run.run}",
        severity="failure",
        title=f"{dag} failed",
        body=f"Run {run.run} of {run.after:%Y-%m-%d %H:%M} UTC failed; what serves goes on serving.",
    )


def _missed(watched: Watched, due: datetime, now: datetime) -> Notice:
    return Notice(
        key=f"{watched.dag} missed {due.isoformat()}",
        severity="failure",
        title=f"{watched.dag} did not run",
        body=f"Due at {due:%Y-%m-%d %H:%M} UTC by its schedule {watched.schedule}, not begun at {now:%H:%M}. "
        f"Look whether Airflow's scheduler runs (`touchline status`), then trigger {watched.dag} by hand.",
    )
