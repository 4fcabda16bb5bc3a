"""The quick half: a real flow, killed after each step and in the middle of each write, then run again."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import polars as pl
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


@pytest.fixture
def world(postgres, databases, tmp_path):
    number = next(NUMBERS)
    own = {name: _made(postgres, f"chaos_{name}_{number}", f"chaos_{name}") for name in databases}
    made = Alone(Where(tmp_path, own["touchline"], _sqlalchemy(own["mlflow"])))
    made.drops.write(1)
    return made


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


# --- after each step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["receive", "validate", "publish", "hand_over"])
def test_an_ingest_killed_after_a_step_is_finished_by_the_next_one(world, step):
    alone.kill_stopped(world.start("ingest", step))
    world.run("ingest")
    ingested(world)
    told = labels_of(world)
    assert len(told) == len(set(told)) == len(world.drops.sent(world.use_case.tables[1]))


@pytest.mark.parametrize("step", ["take_snapshot", "train", "gate", "register", "build", "check", "promote"])
def test_a_training_killed_after_a_step_is_finished_by_the_next_one(world, step):
    world.run("ingest")
    alone.kill_stopped(world.start("retrain", step))
    world.run("retrain")
    trained(world)
    (only,) = world.book.candidates("calories")
    assert only.promotion_asked_at is not None


def test_a_flow_that_ended_changes_nothing_when_it_runs_again(world):
    for flow in ("ingest", "retrain"):
        world.run(flow)
    before = world.rows(), world.book.candidates("calories"), labels_of(world)
    for flow in ("ingest", "retrain"):
        world.run(flow)
    assert (world.rows(), world.book.candidates("calories"), labels_of(world)) == before
    trained(world)


# --- in the middle of a write -------------------------------------------------------------------------------


def in_commit(world, part) -> Callable[[], bool]:
    """A data file lies in a table that no commit names yet."""
    folder = Path(getattr(world.at(), part))
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
def test_an_ingest_killed_in_the_middle_of_a_delta_commit_leaves_no_row_twice_and_none_out(world, part):
    assert killed(world, "ingest", lambda: in_commit(world, part), world.drops.write), "the middle was never seen"
    world.run("ingest")
    ingested(world)


@pytest.mark.parametrize("part", ["aside", "published"])
def test_a_replay_killed_in_the_middle_of_a_delta_commit_publishes_each_row_once(world, part):
    world.run("ingest")
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
    mended = [{**json.loads(raw), "Height": "180"} for raw in waiting["raw"]]
    for row, file, cells in zip(waiting["row"], waiting["file"], mended, strict=True):
        world.drops.mend(world.at().table, [row], file, [cells])
    places = waiting.select(_batch="batch", _row="row")
    pl.concat([places, pl.DataFrame(mended)], how="horizontal").write_csv(world.where.folder / "corrected.csv")


def run_is_open(world):
    return any(status == "RUNNING" for _, status, _ in world.runs())


def run_is_whole_and_unknown(world):
    finished = [key for _, status, key in world.runs() if status == "FINISHED"]
    return len(finished) > len(world.book.candidates("calories"))


def version_is_there_and_unknown(world):
    (versions,) = world.asked("select count(*) from model_versions")[0]
    return versions > len(world.book.versions("calories"))


@pytest.mark.parametrize("seen", [run_is_open, run_is_whole_and_unknown, version_is_there_and_unknown])
def test_a_training_killed_between_mlflow_and_the_record_is_done_once(world, seen):
    world.run("ingest")
    done = []

    def again(number):
        done.append(number)
        world.drops.write(number)
        world.run("ingest")

    assert killed(world, "retrain", lambda: lambda: seen(world), again), "the middle was never seen"
    world.run("retrain")
    trained(world, 1 + len(done))
