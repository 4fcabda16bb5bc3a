"""The quick half: a real flow, killed after each step and in the middle of each write, then run again."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import psycopg
import pytest
from mlflow import MlflowClient

from pipelines import lake, migrations
from tests.chaos import alone, laws
from tests.chaos.alone import Alone, Where
from tests.chaos.moments import commits_of, files

TRIES = 25
"""How often a middle that was missed is sought again, each time with new files."""
NUMBERS = count()


@pytest.fixture(scope="module")
def databases(postgres):
    """Two databases with their tables, to be copied: the platform's and MLflow's."""
    urls = {name: _made(postgres, f"chaos_{name}") for name in ("touchline", "mlflow")}
    migrations.upgrade(urls["touchline"])
    MlflowClient(_sqlalchemy(urls["mlflow"])).search_experiments()
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'chaos_mlflow'")
    return urls


def _made(postgres, name, template="template1"):
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
        server.execute(f"create database {name} template {template} owner touchline")
    return postgres.url("touchline").rpartition("/")[0] + f"/{name}"


def _sqlalchemy(url):
    return url.replace("postgresql:", "postgresql+psycopg2:")


@pytest.fixture(scope="module")
def whole(postgres, databases, tmp_path_factory):
    """A world whose first files are in, to be copied."""
    made = _world(postgres, databases, tmp_path_factory.mktemp("whole"))
    made.drops.write(1)
    made.run("ingest")
    ingested(made)
    return made


@pytest.fixture
def empty(postgres, databases, tmp_path):
    """A world whose first files wait."""
    made = _world(postgres, databases, tmp_path)
    made.drops.write(1)
    yield made
    made.close()


@pytest.fixture
def world(postgres, databases, whole, tmp_path):
    """A world whose first files are in."""
    shutil.copytree(whole.where.folder, tmp_path, dirs_exist_ok=True)
    made = _world(postgres, {**databases, "touchline": whole.where.database}, tmp_path)
    yield made
    made.close()


def _world(postgres, databases, folder):
    number = next(NUMBERS)
    own = {name: _made(postgres, f"chaos_{name}_{number}", _name(url)) for name, url in databases.items()}
    return Alone(Where(folder, own["touchline"], _sqlalchemy(own["mlflow"])))


def _name(url):
    return url.rpartition("/")[2]


def ingested(world):
    """Every row in one place, in order."""
    for seen in world.rows():
        assert seen.published, f"nothing is published in {seen.table}"
        assert laws.rows_are_conserved(seen) is None
        assert laws.rows_have_one_order(seen) is None


def trained(world, times=1):
    """So many candidates, each trained, registered and judged once."""
    seen = world.releases()
    assert laws.trainings_are_done_once(seen) is None
    assert (len(seen.finished), len(seen.versions), len(seen.tested)) == (times, times, times)


def labels_of(world):
    query = "select entity_key, actual from labels where source = 'table:burnt'"
    with psycopg.connect(world.where.database) as connection:
        return connection.execute(query).fetchall()


# --- after each step, and after each word to another service ------------------------------------------------


@pytest.mark.parametrize("step", ["receive", "validate", "publish", "hand_over", "labels.hand"])
def test_an_ingest_killed_after_a_step_is_finished_by_the_next_one(empty, step):
    alone.kill_stopped(empty.start("ingest", step))
    empty.run("ingest")
    ingested(empty)
    told = labels_of(empty)
    assert len(told) == len(set(told)) == len(empty.drops.sent(empty.use_case.tables[1]))


STEPS = ("take_snapshot", "train", "gate", "register", "build", "check", "promote")
WORDS = ("tracker.log", "evidence.add", "registry.register")


@pytest.mark.parametrize("step", STEPS + WORDS)
def test_a_training_killed_after_a_step_is_finished_by_the_next_one(world, step):
    alone.kill_stopped(world.start("retrain", step))
    world.run("retrain")
    trained(world)
    (only,) = world.book.candidates("calories")
    assert only.promotion_asked_at is not None


def test_a_flow_that_ended_changes_nothing_when_it_runs_again(world):
    world.run("retrain")
    before = world.rows(), world.book.candidates("calories"), labels_of(world)
    for flow in ("ingest", "retrain"):
        world.run(flow)
    assert (world.rows(), world.book.candidates("calories"), labels_of(world)) == before
    trained(world)


# --- in the middle of a write -------------------------------------------------------------------------------


def in_commit(world, part, table=0) -> Callable[[], bool]:
    """A data file lies in a table that no commit names yet."""
    folder = Path(getattr(world.at(table), part))
    before, commits = files(folder), commits_of(folder)
    return lambda: bool(files(folder) - before) and commits_of(folder) == commits


def killed(world, flow, middle, again):
    """Whether it was killed in its middle at last; `again` brings new work."""
    for number in range(2, TRIES + 2):
        if alone.kill_in(world.start(flow), middle()):
            return True
        again(number)
    return False


@pytest.mark.parametrize("part", ["batches", "aside", "published"])
def test_an_ingest_killed_in_the_middle_of_a_delta_commit_leaves_no_row_twice_and_none_out(empty, part):
    assert killed(empty, "ingest", lambda: in_commit(empty, part), empty.drops.write), "the middle was never seen"
    empty.run("ingest")
    ingested(empty)


def test_an_ingest_killed_while_a_file_is_taken_over_leaves_no_row_twice_and_none_out(world):
    world.drops.write(2)
    burnt = world.use_case.tables.index(world.use_case.table("burnt"))

    def again(number):
        world.drops.write(number + 1)

    seen = killed(world, "ingest", lambda: in_commit(world, "published", burnt), again)
    assert seen, "the middle was never seen"
    world.run("ingest")
    ingested(world)


@pytest.mark.parametrize("part", ["aside", "published"])
def test_a_replay_killed_in_the_middle_of_a_delta_commit_publishes_each_row_once(world, part):
    _correct(world)

    def again(number):
        world.drops.write(number)
        world.run("ingest")
        _correct(world)

    assert killed(world, "replay", lambda: in_commit(world, part), again), "the middle was never seen"
    world.run("replay")
    ingested(world)
    world.run("replay")
    ingested(world)
    assert lake.waiting(world.tools.tables, world.at()).is_empty()


def _correct(world):
    """What a person would give to `quarantine replay --fixed`."""
    waiting = lake.waiting(world.tools.tables, world.at())
    world.drops.correct(world.at().table, waiting, world.where.folder / "corrected.csv")


def test_a_training_killed_in_the_middle_of_its_write_to_mlflow_is_done_once(world):
    done = []

    def again(number):
        done.append(number)
        world.drops.write(number)
        world.run("ingest")

    def is_open():
        return any(status == "RUNNING" for _, status, _ in world.runs())

    assert killed(world, "retrain", lambda: is_open, again), "the middle was never seen"
    world.run("retrain")
    trained(world, 1 + len(done))
