"""Every Airflow DAG of the platform: ingest, retrain and what new labels ask for, for each use case."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, get_type_hints

from airflow.sdk import (
    Asset,
    AssetOrTimeSchedule,
    BaseOperatorLink,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    TaskGroup,
    dag,
    task,
)
from airflow.sdk.exceptions import AirflowSkipException

from pipelines import catalog, flows, settings
from pipelines.errors import Final
from pipelines.records import Wish
from pipelines.spec import UseCase
from pipelines.steps.validate import validate

RUN_TIME: Any = None
"""Stands for `now` while a DAG is declared; a task puts the run's own time in its place.

A training's time is when its run was due, so that a late or backfilled one sees what it would have seen.
An arrival's is when its run began: what arrives in a late run has not arrived before.
"""
WISHED: Any = None
"""Stands for the wish; a task reads it from the run and its form."""
HERE = settings.load()
ALWAYS = {
    "retries": 4,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=2),
    "retry_policy": ExceptionRetryPolicy(
        rules=[RetryRule(exception=Final, action=RetryAction.FAIL, reason="a repeat gives the same answer")]
    ),
}
FORM = {
    "reason": Param(None, type=["null", "string"], title="Reason", description="Why; the run in MLflow shows it"),
    "as_of": Param(
        None, type=["null", "string"], format="date-time", title="As of",
        description="Only rows that had arrived by then; empty: all",
    ),
    "snapshot": Param(
        None, type=["null", "string"], title="Snapshot", description="Beginning of the digest of one taken before"
    ),
    "force": Param(
        False, type="boolean", title="Force",
        description="Judge again and ask to serve, also with nothing new or with older rows than the champion's",
    ),
}  # fmt: skip


def wish(run: Any, params: dict[str, Any], events: Any) -> Wish:
    """What this run wants, and why, in words that MLflow shows."""
    kind = str(getattr(run.run_type, "value", run.run_type))
    if kind == "backfill":
        return Wish(reason=f"backfill of {run.logical_date:%Y-%m-%d %H:%M}", as_of=run.logical_date)
    extras = [event.extra for each in (events or {}).values() for event in each]
    person = getattr(run, "triggering_user_name", None) or "somebody"
    whys = {"scheduled": "the schedule", "manual": f"asked for by {person} in Airflow"}
    why = extras[-1]["reason"] if extras else whys.get(kind, kind)
    form = {name: params.get(name) for name in ("as_of", "snapshot")}
    return Wish(reason=params.get("reason") or why, force=bool(params.get("force")), **form)


def perform(use_case: str, step: Callable[..., Any], *given: Any) -> Any:
    """Run one step with this home's tools."""
    from pipelines import runner, wiring

    tools = wiring.tools(HERE, use_case)
    return runner.perform(tools, wiring.use_case(HERE, use_case), step, *given)


def as_tasks(use_case: str, time: str = "run_after") -> flows.Runner:
    """Run steps as Airflow tasks; only small JSON records cross between them."""

    def do(step: Callable[..., Any]) -> Callable[..., Any]:
        kinds = [kind for name, kind in get_type_hints(step).items() if name != "return"][2:]

        @task(task_id=step.__name__, doc_md=step.__doc__)  # type: ignore[untyped-decorator]
        def run(*sent: Any, dag_run: Any = None, params: Any = None, triggering_asset_events: Any = None) -> Any:
            known = {datetime: getattr(dag_run, time), Wish: wish(dag_run, params, triggering_asset_events)}
            given = [
                kind.model_validate(value) if isinstance(value, dict) else known.get(kind, value)
                for kind, value in zip(kinds, sent, strict=True)
            ]
            return perform(use_case, step, *given).model_dump(mode="json")

        def linked(*sent: Any) -> Any:
            output = run(*sent)
            if step is validate:
                output.operator.operator_extra_links = (DataDocs(use_case),)
            return output

        return linked

    return do


class DataDocs(BaseOperatorLink):  # type: ignore[misc]
    """From a validation to the page of what it judged last; to all pages of the table when it judged nothing."""

    name = "Data Docs"

    def __init__(self, use_case: str) -> None:
        self.use_case = use_case

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Asked by the task itself when it ends."""
        told = ti_key.xcom_pull(task_ids=ti_key.task_id) or {}
        pages = [batch["page"] for batch in told.get("batches", ()) if batch["page"]]
        table = ti_key.task_id.partition(".")[0]
        last = f"/{pages[-1].rpartition('/')[2]}" if pages else ""
        return f"http://127.0.0.1:{HERE.ports.airflow}/data-docs/{self.use_case}/{table}{last}"


def declare(use_case: UseCase) -> None:
    """Register the DAGs of one use case; those that this home was not started for wait for a person."""
    name = use_case.name
    common: dict[str, Any] = {
        "start_date": None,  # with one, a new home would first run what was due before it existed
        "catchup": False,
        "max_active_runs": 1,
        "is_paused_upon_creation": name != HERE.use_case,
        "default_args": {"owner": use_case.owner, **ALWAYS},
    }
    labels = Asset(name=f"{name}_labels", uri=f"touchline://{name}/labels")
    nightly = CronTriggerTimetable(use_case.retrain_schedule, timezone="UTC")

    @dag(f"ingest_{name}", schedule=use_case.ingest_schedule, tags=["ingest", name], **common)  # type: ignore[untyped-decorator]
    def ingest() -> None:
        """New rows are judged and published; broken ones go to quarantine."""
        for table in use_case.tables:
            with TaskGroup(table.name):
                flows.ingestion(as_tasks(name, "start_date"), table.name, RUN_TIME)

    @dag(
        f"retrain_{name}",
        schedule=AssetOrTimeSchedule(timetable=nightly, assets=labels),
        params=FORM,
        tags=["retrain", name],
        **common,
    )  # type: ignore[untyped-decorator]
    def retrain() -> None:
        """Published rows become a version that may serve; the reconciler lets it."""
        flows.retraining(as_tasks(name), WISHED, RUN_TIME)

    @dag(f"labels_{name}", schedule=use_case.labels_schedule, tags=["retrain", name], **common)  # type: ignore[untyped-decorator]
    def watch_labels() -> None:
        """Enough new labels ask for a training before its time."""

        @task(outlets=[labels])  # type: ignore[untyped-decorator]
        def enough_labels(*, dag_run: Any = None, outlet_events: Any = None) -> None:
            from pipelines.steps.due import due

            told = perform(name, due, dag_run.run_after)
            if not told.due:
                raise AirflowSkipException(told.reason)
            outlet_events[labels].extra = {"reason": told.reason}

        enough_labels()

    ingest()
    retrain()
    if use_case.retrain_after_labels is not None:
        watch_labels()


for each in catalog.find(HERE.use_cases):
    declare(catalog.load(each, HERE.use_cases))
