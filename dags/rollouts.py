"""Airflow's view of rollouts: one DAG a use case, one task a stage of its plan; the watcher starts a run for each.

The reconciler alone advances a rollout. A run shows where it is, waits without holding a worker, and carries a
person's approval where the plan asks for one (Airflow's Required Actions).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import dag, task

from dags.waits import BEGAN, StageWait
from pipelines import catalog, settings
from pipelines.rollout import stages
from pipelines.spec import RolloutPlan, UseCase

HERE = settings.load()
AGREED, REFUSED = "Approve", "Reject"


def id_of(stage: str) -> str:
    """The task of a stage: `canary 5 %` is `canary_5`."""
    return stage.removesuffix(" %").replace(" ", "_").replace(".", "_")


def wanting(plan: RolloutPlan) -> set[str]:
    """Stages before which a person must agree."""
    each = {f"canary {stage.weight:g} %" for stage in plan.stages if stage.approval}
    return each | ({"full"} if plan.full_approval else set())


def order(use_case: str, began: str, stage: str, answer: dict[str, Any]) -> str:
    """Hand a person's answer to the reconciler, as an order about that stage of that rollout."""
    from pipelines import wiring

    rollouts = wiring.rollouts(HERE)
    agreed = AGREED in answer["chosen_options"]
    who = (answer.get("responded_by_user") or {}).get("name") or "somebody"
    told = stages.Order(
        at=datetime.now(UTC),
        use_case=use_case,
        kind="approve" if agreed else "abort",
        version=rollouts.changes(use_case, datetime.fromisoformat(began))[0].version,
        stage=stage,
        who=f"{who} in Airflow",
        why=f"{stage} was {'approved' if agreed else 'rejected'}",
    )
    rollouts.order(told)
    return told.kind


def asking(use_case: UseCase, stage: str) -> Any:
    """Wait until a person is wanted, ask, hand the answer over."""
    name = id_of(stage)
    wanted = StageWait(
        task_id=f"before_{name}", use_case=use_case.name, stage=stage, asking=True, trigger_rule="none_failed"
    )
    asked = HITLOperator(
        task_id=f"approve_{name}",
        subject=f"{use_case.name}: {stage}?",
        body=f"{{{{ ti.xcom_pull(task_ids='before_{name}') }}}}",
        options=[AGREED, REFUSED],
        response_timeout=use_case.rollout.patience,
        retries=4,  # one that is answered within its first second fails, and asks again
        retry_delay=timedelta(seconds=5),
    )

    @task(task_id=f"order_{name}")  # type: ignore[untyped-decorator]
    def ordered(answer: Any, dag_run: Any = None) -> str:
        return order(use_case.name, dag_run.conf[BEGAN], stage, answer)

    told = ordered(asked.output)
    wanted >> asked
    return wanted, told


def declare(use_case: UseCase) -> None:
    """Register the DAG of one use case."""

    @dag(  # type: ignore[untyped-decorator]
        f"rollout_{use_case.name}",
        schedule=None,
        catchup=False,
        is_paused_upon_creation=False,
        tags=["rollout", use_case.name],
        default_args={"owner": use_case.owner},
    )
    def rollout() -> None:
        """The way of a challenger to champion, stage by stage."""
        done: list[Any] = []
        for stage in stages.labels(use_case.rollout):
            waiting = StageWait(
                task_id=id_of(stage), use_case=use_case.name, stage=stage, trigger_rule="none_failed"
            )
            if stage in wanting(use_case.rollout):
                wanted, told = asking(use_case, stage)
                told >> waiting
                if done[:-1]:  # a person is asked while the stage before still lasts
                    done[-2] >> wanted
            if done:
                done[-1] >> waiting
            done.append(waiting)

    rollout()


for each in catalog.find(HERE.use_cases):
    declare(catalog.load(each, HERE.use_cases))
