"""Every Airflow DAG of the platform: ingest and retrain, for each use case."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, get_type_hints

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule, TaskGroup, dag, task

from pipelines import catalog, flows, settings
from pipelines.errors import Final
from pipelines.spec import UseCase

RUN_TIME: Any = None
"""Stands for `now` while a DAG is declared; a task puts the run's own time in its place."""
ALWAYS = {
    "retries": 4,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=2),
    "retry_policy": ExceptionRetryPolicy(
        rules=[RetryRule(exception=Final, action=RetryAction.FAIL, reason="a repeat gives the same answer")]
    ),
}


def as_tasks(use_case: str) -> flows.Runner:
    """Run steps as Airflow tasks; only small JSON records cross between them."""

    def do(step: Callable[..., Any]) -> Callable[..., Any]:
        kinds = [kind for name, kind in get_type_hints(step).items() if name != "return"][2:]

        @task(task_id=step.__name__, doc_md=step.__doc__)  # type: ignore[untyped-decorator]
        def run(*sent: Any, dag_run: Any = None) -> Any:
            from pipelines import runner, wiring

            given = [
                dag_run.run_after
                if kind is datetime
                else kind.model_validate(value)
                if isinstance(value, dict)
                else value
                for kind, value in zip(kinds, sent, strict=True)
            ]
            here = settings.load()
            tools = wiring.tools(here, use_case)
            return runner.perform(tools, wiring.use_case(here, use_case), step, *given).model_dump(mode="json")

        return run  # type: ignore[no-any-return]

    return do


def declare(use_case: UseCase) -> None:
    """Register both DAGs of one use case."""
    common: dict[str, Any] = {
        "start_date": None,  # with one, a new home would first run what was due before it existed
        "catchup": False,
        "max_active_runs": 1,
        "default_args": {"owner": use_case.owner, **ALWAYS},
    }

    @dag(f"ingest_{use_case.name}", schedule=use_case.ingest_schedule, tags=["ingest", use_case.name], **common)  # type: ignore[untyped-decorator]
    def ingest() -> None:
        """New files become published rows; broken rows go to quarantine."""
        for table in use_case.tables:
            with TaskGroup(table.name):
                flows.ingestion(as_tasks(use_case.name), table.name, RUN_TIME)

    @dag(f"retrain_{use_case.name}", schedule=use_case.retrain_schedule, tags=["retrain", use_case.name], **common)  # type: ignore[untyped-decorator]
    def retrain() -> None:
        """Published rows become a version that may serve; the reconciler lets it."""
        flows.retraining(as_tasks(use_case.name), RUN_TIME)

    ingest()
    retrain()


FOLDERS = settings.load().use_cases
for each in catalog.find(FOLDERS):
    declare(catalog.load(each, FOLDERS))
