"""Airflow through its REST API: health, DAGs, runs, and what happened in them."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from pipelines.errors import Final, ServiceAway
from pipelines.settings import Settings

TIMEOUT_SECONDS = 30
DONE = ("success", "failed")
FRAME = ("::group::", "::endgroup::", "Retry policy decision", "Task failed with exception")


class TaskRun(NamedTuple):
    """What happened to one task of a run."""

    task: str
    map_index: int
    """-1 when the task is not mapped."""
    state: str
    tries: int
    seconds: float


class AirflowRest:
    """One Airflow, as one user. ServiceAway when it does not answer, Final when it refuses."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """Nothing is asked yet; a token is fetched when the first call needs one."""
        self.url = url.rstrip("/")
        self._login = {"username": user, "password": password}
        self._token = ""

    def is_up(self) -> bool:
        """Whether the api-server answers at all."""
        try:
            self._open("GET", "/api/v2/version", None, {})
        except ServiceAway:
            return False
        return True

    def health(self) -> dict[str, str]:
        """State of each component: metadatabase, scheduler, triggerer, dag_processor."""
        told = self._open("GET", "/api/v2/monitor/health", None, {})
        return {name: (part or {}).get("status") or "unknown" for name, part in told.items()}

    def dags(self) -> set[str]:
        """Ids of the DAGs that were loaded."""
        return {one["dag_id"] for one in self._get("/dags?limit=1000")["dags"]}

    def import_errors(self) -> dict[str, str]:
        """Trace of each DAG file that could not be loaded, by file name."""
        return {one["filename"]: one["stack_trace"] for one in self._get("/importErrors")["import_errors"]}

    def trigger(self, dag: str, conf: Mapping[str, object] | None = None, run: str | None = None) -> str:
        """Start a run; its id, which may be given."""
        body = {"logical_date": None, "conf": dict(conf or {}), **({"dag_run_id": run} if run else {})}
        started: str = self._call("POST", f"/dags/{quote(dag)}/dagRuns", body)["dag_run_id"]
        return started

    def unpause(self, dag: str) -> None:
        """Let its schedule count."""
        self._call("PATCH", f"/dags/{quote(dag)}?update_mask=is_paused", {"is_paused": False})

    def is_paused(self, dag: str) -> bool:
        """Whether its schedule does not count; so it is for one that was not loaded yet."""
        told = self._get(f"/dags?dag_id_pattern={quote(dag)}&limit=100&exclude_stale=true")["dags"]
        return not any(one["dag_id"] == dag and not one["is_paused"] for one in told)

    def runs(self, dag: str, most: int) -> list[tuple[str, str, datetime]]:
        """(id, state, when due) of the newest runs, newest first; none of a DAG that was not loaded yet."""
        try:
            told = self._get(f"/dags/{quote(dag)}/dagRuns?limit={most}&order_by=-run_after")["dag_runs"]
        except NotThere:
            return []
        return [(one["dag_run_id"], one["state"], datetime.fromisoformat(one["run_after"])) for one in told]

    def state(self, dag: str, run: str) -> str:
        """queued, running, success or failed."""
        state: str = self._get(_run(dag, run))["state"]
        return state

    def tasks(self, dag: str, run: str) -> list[TaskRun]:
        """What happened, in the order of the starts."""
        told = self._get(f"{_run(dag, run)}/taskInstances?limit=1000&order_by=start_date")["task_instances"]
        return [
            TaskRun(
                one["task_id"],
                one["map_index"],
                one["state"] or "none",
                one["try_number"],
                one["duration"] or 0,
            )
            for one in told
        ]

    def log(self, dag: str, run: str, task: TaskRun) -> list[str]:
        """The lines of the task's last try, without those that Airflow frames them with."""
        path = f"{_run(dag, run)}/taskInstances/{quote(task.task)}/logs/{max(task.tries, 1)}"
        content = self._get(f"{path}?map_index={task.map_index}&full_content=true")["content"]
        return [line for entry in content for line in _lines(entry) if not line.startswith(FRAME)]

    def _get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def _call(self, method: str, path: str, body: object) -> Any:
        """With a token; with a fresh one when the old has ended."""
        for _ in range(2):
            try:
                return self._open(method, f"/api/v2{path}", body, {"Authorization": f"Bearer {self._signed_in()}"})
            except _NotSignedIn:
                self._token = ""
        raise Final(f"Airflow at {self.url} does not accept user {self._login['username']} and its password")

    def _signed_in(self) -> str:
        if not self._token:
            self._token = self._open("POST", "/auth/token", self._login, {})["access_token"]
        return self._token

    def _open(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(  # ruff: ignore[suspicious-url-open-usage]
            self.url + path, data, {"Content-Type": "application/json", **headers}, method=method
        )
        try:
            with urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS) as answer:  # ruff: ignore[suspicious-url-open-usage]
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise _translated(error, f"{method} {self.url}{path}") from error
        except (OSError, ValueError) as error:
            raise ServiceAway(f"Airflow at {self.url} does not answer: {error}") from error


def of_home(settings: Settings) -> AirflowRest:
    """This home's Airflow, signed in as its admin."""
    url = f"http://127.0.0.1:{settings.ports.airflow}"
    return AirflowRest(url, "admin", settings.at.secret("airflow-admin"))


class NotThere(Final):
    """Airflow knows nothing of that name."""


class _NotSignedIn(Final):
    """The token has ended, or user and password are wrong."""


def _translated(error: urllib.error.HTTPError, call: str) -> Exception:
    said = error.read(400).decode(errors="replace")
    if error.code == 401:
        return _NotSignedIn(f"Airflow refused {call}: {said}")
    kind = ServiceAway if error.code >= 500 else NotThere if error.code == 404 else Final
    return kind(f"Airflow answered {call} with {error.code}: {said}")


def _run(dag: str, run: str) -> str:
    return f"/dags/{quote(dag)}/dagRuns/{quote(run, safe='')}"


def _lines(entry: object) -> list[str]:
    """One entry of a log: an event with its error, or plain text."""
    if not isinstance(entry, dict):
        return str(entry).splitlines()
    errors = [f"{one.get('exc_type')}: {one.get('exc_value')}" for one in entry.get("error_detail") or ()]
    return [*str(entry.get("event", "")).splitlines(), *errors]


def wait_for_run(airflow: AirflowRest, dag: str, run: str, pause: float = 1.0) -> str:
    """Until the run has ended, however long that takes; its last state."""
    while (state := airflow.state(dag, run)) not in DONE:
        time.sleep(pause)
    return state
