"""`up` and `down`: from an empty folder to a running platform whose main job has succeeded, and back."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from pipelines import migrations
from pipelines import settings as settings_of
from pipelines.adapters.airflow_rest import AirflowRest, of_home, wait_for_run
from pipelines.adapters.haproxy import HAProxy
from pipelines.errors import BadSettings, Busy, CannotStart, Final, ServiceAway
from pipelines.machine import dump, first_answer, keeper, postgres, preflight, secrets, services
from pipelines.machine.front import follow, interruptible, undisturbed
from pipelines.machine.progress import RED, paint, say, step
from pipelines.machine.supervisor import Supervisor
from pipelines.origin import claim
from pipelines.settings import Home, Settings

HEALTHY_SECONDS = 600.0
LOG_LINES = 30
DONE = "main-job-done"
REASON = "the main job of `touchline up`"
MIGRATED = "airflow-migrated"


class Job(NamedTuple):
    """One run of the main job, as Airflow told it."""

    dag: str
    run: str
    state: str


def up(settings: Settings, *, detach: bool = False) -> None:
    """Set up what is missing, start everything, run the main job once; in front until Ctrl-C.

    Raises CannotStart before anything was started, Final when the main job failed (everything keeps running,
    so that one can look), Busy when another `up` is at work.
    """
    supervisor, failure = Supervisor(settings.at), None
    with interruptible():
        try:
            preflight.home(settings.at)
            with _alone(settings.at):
                started = _bring_up(settings, supervisor)
                failure = _main_job(settings)
                if failure is None:
                    _await_answer(settings)
            _farewell(settings)
            if started and not detach:
                say("Ctrl-C stops everything.")
                follow(supervisor, lambda: _start(settings, supervisor))
        except KeyboardInterrupt:
            say()
            with undisturbed(), step("stopping everything"):
                supervisor.stop()
    if failure:
        raise failure


def down(settings: Settings, *, purge: bool = False) -> None:
    """Stop everything; with `purge` also remove the home and what of it lies elsewhere."""
    supervisor = Supervisor(settings.at)
    with step("stopping every service" if supervisor.is_running() else "nothing runs; looking for leftovers"):
        supervisor.stop()
    if purge and settings.home.exists():
        if not settings.at.version.exists():
            raise BadSettings(f"{settings.home}: no home of Touchline, so nothing was removed: set TOUCHLINE_HOME")
        with step(f"removing {settings.home}"):
            postgres.remove(settings.at)
            shutil.rmtree(settings.home)


def main_job_done(settings: Settings) -> bool:
    """Whether the main job of this use case has succeeded in this home before."""
    return _done(settings).exists()


def _done(settings: Settings) -> Path:
    return settings.at.root / f"{DONE}-{settings.use_case}"


# --- start -----------------------------------------------------------------------------------------------


def _bring_up(settings: Settings, supervisor: Supervisor) -> bool:
    """Whether this call started it; one that runs already is left as it is. A failed start leaves nothing."""
    if supervisor.is_running():
        _agree(settings)
        say(f"{settings.home} is running already")
        return False
    supervisor.sweep()
    preflight.check(settings)
    try:
        _set_up(settings)
        _start(settings, supervisor)
    except BaseException:
        supervisor.stop()
        raise
    return True


def _agree(settings: Settings) -> None:
    """What runs was started with the very settings that are in force now."""
    now = settings.model_dump(mode="json", include=settings_of.REMEMBERED)
    kept = json.loads(settings.at.settings.read_text())
    other = sorted(f"TOUCHLINE_{name.upper()}" for name in now if now[name] != kept.get(name))
    if other:
        raise CannotStart(f"{settings.home} runs with another {', '.join(other)}: `touchline down` first")


@contextmanager
def _alone(home: Home) -> Generator[None, None, None]:
    """One `up` a home at a time."""
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not home.version.exists():
        home.version.write_text(f"{preflight.LAYOUT}\n")
    with (home.root / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{home.root}: another `touchline up` is at work there") from None
        yield


def _set_up(settings: Settings) -> None:
    """What must lie on disk before a process can start; each step does only what is missing."""
    home = settings.at
    origin = claim(settings)
    say(f"home {home.root}, {origin.kind} rows")
    settings_of.remember(settings)
    with step("secrets"):
        secrets.generate(home)
        secrets.keep(settings)
    if settings.embedded:
        with step("PostgreSQL's files"):
            postgres.prepare(home)
    if not (home.proxy / "haproxy.cfg").exists():
        HAProxy(home.proxy, settings.ports.proxy).write(())
    _prepare_airflow(home)


def _prepare_airflow(home: Home) -> None:
    """Its folders, and the module that imports heavy libraries before tasks are forked."""
    config = home.airflow / "config"
    for folder in (config, home.airflow / "logs", home.artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("airflow_local_settings.py"), config)


def _start(settings: Settings, supervisor: Supervisor) -> None:
    """The database first, then its tables, then everybody else; back when all are healthy."""
    with step("PostgreSQL"):
        _start_database(settings, supervisor)
    _dump_older(settings)
    _migrate_airflow(settings)
    with step("the platform's tables"):
        migrations.upgrade(settings.database)
    settings.at.version.write_text(f"{preflight.LAYOUT}\n")
    with step("starting services"):
        for service in services.declared(settings):
            supervisor.add(service)
    for name, healthy in _probes(settings):
        with step(f"waiting for {name}"):
            _until(healthy, name, settings)


def _dump_older(settings: Settings) -> None:
    """A home of an older layout is dumped before anything in it is changed."""
    layout = preflight.layout(settings.at)
    if layout < preflight.LAYOUT:
        with step(f"dumping the databases of layout {layout}"):
            folder = dump.all_databases(settings, layout)
        say(f"    they lie in {folder}")


def _start_database(settings: Settings, supervisor: Supervisor) -> None:
    """This home's own with its databases, or a look at each of those that the user has."""
    if not settings.embedded:
        supervisor.start(())
        preflight.databases(settings)
        return
    port = settings.ports.postgres
    supervisor.start((services.database(settings.at, port),))
    _until(lambda: keeper.answers(f"pg:{port}"), "postgres", settings)
    postgres.create_databases(settings.at, port)


def _migrate_airflow(settings: Settings) -> None:
    """Once a version of Airflow: the tool takes seconds to find out that nothing is to be done."""
    marker, now = settings.at.root / MIGRATED, version("apache-airflow")
    if marker.exists() and marker.read_text() == now:
        return
    with step("Airflow's tables"):
        _run_tool(settings, services.tool("airflow"), "db", "migrate")
        marker.write_text(now)


def _run_tool(settings: Settings, *command: str) -> None:
    """Run a program of this environment; CannotStart with the end of what it said."""
    environment = {
        **services.base_environment(os.environ),
        **services.platform_environment(settings),
        **services.airflow_environment(settings),
    }
    done = subprocess.run(command, env=environment, cwd=settings.home, capture_output=True, text=True, check=False)
    (settings.at.logs / "setup.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise CannotStart(f"{' '.join(command[-2:])} failed: {(done.stderr or done.stdout).strip()[-800:]}")


# --- health ----------------------------------------------------------------------------------------------


def _probes(settings: Settings) -> tuple[tuple[str, Callable[[], bool]], ...]:
    """Each service with a question that only a working one answers with yes.

    The api-server builds the interface of its tasks at the first call, in seconds: asked for here, the first
    task of the main job does not wait for it.
    """
    rest = of_home(settings)
    return (
        ("airflow-api-server", rest.is_up),
        ("airflow's tasks", lambda: keeper.answers(f"http:{settings.ports.airflow}/execution/health")),
        ("airflow", lambda: _all_healthy(rest)),
        ("mlflow", lambda: keeper.answers(f"http:{settings.ports.mlflow}/health")),
    )


def _all_healthy(rest: AirflowRest) -> bool:
    """Scheduler, triggerer, dag processor and their database."""
    try:
        return set(rest.health().values()) == {"healthy"}
    except ServiceAway:
        return False


def _until(healthy: Callable[[], bool], name: str, settings: Settings) -> None:
    """Wait; ServiceAway with the end of the service's log when it takes too long."""
    supervisor, deadline = Supervisor(settings.at), time.monotonic() + HEALTHY_SECONDS
    while not healthy():
        if not supervisor.is_running():
            raise Final(f"{name}: everything was stopped meanwhile, by `touchline down` or a kill")
        if time.monotonic() > deadline:
            raise ServiceAway(f"{name} is not healthy after {HEALTHY_SECONDS:.0f} s; see {settings.at.logs}/")
        time.sleep(0.2)


# --- the main job ----------------------------------------------------------------------------------------


def _main_job(settings: Settings) -> Final | None:
    """Ingest, then retrain; the failure, if there was one, with what the task said."""
    if main_job_done(settings):
        say(f"{settings.use_case}: its main job succeeded before and is not repeated")
        return None
    names = (f"ingest_{settings.use_case}", f"retrain_{settings.use_case}")
    rest = of_home(settings)
    with step("waiting for the DAGs"):
        _await_dags(rest, set(names), settings)
    for dag in names:
        rest.unpause(dag)
        job = _run_dag(rest, dag)
        _tell(rest, job)
        if job.state != "success":
            return Final(f"{dag} failed; see its log above, or the run in Airflow: {rest.url}/dags/{dag}")
    _done(settings).touch()
    return None


def _await_answer(settings: Settings) -> None:
    """The reconciler lets serve what was promoted; after a start it brings the places back."""
    with step(f"waiting until {settings.use_case} serves"):
        _until(lambda: first_answer.serves(settings), f"{settings.use_case}'s endpoint", settings)


def _await_dags(rest: AirflowRest, names: set[str], settings: Settings) -> None:
    """Healthy is not loaded: ask for the DAGs themselves, and do not wait for files that cannot load."""

    def loaded() -> bool:
        there = names <= rest.dags()
        if not there and (broken := rest.import_errors()):
            file, trace = next(iter(broken.items()))
            raise Final(f"Airflow cannot load {file}: {trace.strip().splitlines()[-1]}")
        return there

    _until(loaded, f"DAGs {sorted(names)}", settings)


def _run_dag(rest: AirflowRest, dag: str) -> Job:
    with step(f"running {dag}"):
        run = rest.trigger(dag, {"reason": REASON} if dag.startswith("retrain") else {})
        return Job(dag, run, wait_for_run(rest, dag, run))


def _tell(rest: AirflowRest, job: Job) -> None:
    """One line a task; of each failed one the end of its log."""
    for task in rest.tasks(job.dag, job.run):
        name = task.task if task.map_index < 0 else f"{task.task}[{task.map_index}]"
        colour = RED if task.state == "failed" else 0
        say(f"    {name:<32} {paint(task.state, colour):<16} {task.seconds:6.1f} s  try {task.tries}")
        if task.state == "failed":
            for line in rest.log(job.dag, job.run, task)[-LOG_LINES:]:
                say(f"      | {line}")


def _farewell(settings: Settings) -> None:
    """Where to look."""
    at, port = settings.at, settings.ports.airflow
    say()
    if first_answer.serves(settings):
        say(f"$ {first_answer.as_curl(settings)}")
        say(json.dumps(first_answer.ask(settings)))
        say()
    say(f"predictions  {settings.endpoint}/{settings.use_case}/predict")
    say(f"Airflow      http://127.0.0.1:{port}   user admin, password in {at.secrets / 'airflow-admin'}")
    say(f"MLflow       {settings.mlflow}")
    say(f"logs         {at.logs}")
    say("status       touchline status     stop: touchline down")
