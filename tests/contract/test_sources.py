"""Sources against the real thing: an S3 server, SQLite, PostgreSQL, the platform's own prediction log."""

import gzip
import itertools
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa

from pipelines import migrations, wiring
from pipelines.adapters.sources import BucketSource
from pipelines.adapters.sql import AnswersSource, SqlSource
from pipelines.errors import BadSettings, BadUseCase, ServiceAway
from pipelines.predictions import label_clock, shipper
from pipelines.predictions.spool import FolderSpool, Header, Labels, Predictions
from pipelines.serving.contract import instant
from pipelines.spec import Answers, Field, Files, Sql, Table
from pipelines.use_cases.calories import INPUTS, USE_CASE
from tests.builders import NOW, replace
from tests.unit.test_files import EVENTS, HEAD, LINES, TEXT, WANTED, events_world, ingest, rows

NUMBERS = itertools.count()


# --- a bucket -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """An empty bucket: a function that puts an object, and its address."""
    from pyarrow import fs

    for name, value in {
        "ACCESS_KEY_ID": "me",
        "SECRET_ACCESS_KEY": "secret",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    opened = fs.S3FileSystem(endpoint_override=s3_server, allow_bucket_creation=True)
    name = f"bucket{next(NUMBERS)}"
    opened.create_dir(name)

    def put(path: str, content: str | bytes) -> None:
        with opened.open_output_stream(f"{name}/{path}", compression=None) as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())

    return put, f"s3://{name}/drop"


def at_bucket(tmp_path, endpoint, at):
    table = EVENTS.model_copy(update={"source": Files(pattern="events*", at=at, zone="Europe/Berlin")})
    return events_world(tmp_path, table).with_source(BucketSource(at, endpoint))


def test_objects_below_a_prefix_arrive_grow_and_are_replaced(tmp_path, bucket, s3_server):
    put, at = bucket
    world = at_bucket(tmp_path, s3_server, at)
    assert ingest(world) == {}
    put("drop/2024/events-1.csv", HEAD + LINES[0])
    put("drop/notes.txt", "no events")
    put("elsewhere/events-9.csv", TEXT)
    assert ingest(world) == {"arrived": 1, "published": 1}
    put("drop/2024/events-1.csv", HEAD + LINES[0] + LINES[1])
    put("drop/events-2.csv.gz", gzip.compress((HEAD + LINES[2]).encode()))
    assert ingest(world) == {"arrived": 3, "published": 3}
    assert sorted(rows(world)) == WANTED
    put("drop/events-2.csv.gz", gzip.compress((HEAD + "3,Olaf,,\n").encode()))
    assert ingest(world) == {"arrived": 4, "published": 3, "revised": 1}
    assert ingest(world) == {"arrived": 4, "published": 3, "revised": 1}


def test_a_bucket_that_does_not_answer_is_passing_and_names_no_secret(tmp_path, bucket):
    world = at_bucket(tmp_path, "http://127.0.0.1:9", bucket[1])
    with pytest.raises(ServiceAway) as away:
        ingest(world)
    assert "secret" not in str(away.value)


def test_a_bucket_that_is_not_there_is_a_fault_of_the_use_case(tmp_path, bucket, s3_server):
    world = at_bucket(tmp_path, s3_server, "s3://nowhere/drop")
    with pytest.raises(BadUseCase, match="there is no bucket s3://nowhere"):
        ingest(world)


# --- a query --------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """A URL of an empty database, and its engine."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'source.db'}"
    else:
        url = own_database(request.getfixturevalue("postgres")).replace("postgresql", "postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sa.text("create table events (id int, who text, at timestamp, amount numeric, changed timestamp)")
        )
    return url, engine


def own_database(postgres):
    name = f"source{next(NUMBERS)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} owner touchline")
    return postgres.url("touchline").rpartition("/")[0] + f"/{name}"


def sql_world(tmp_path, url, **changed):
    source = Sql(
        url="env:SOURCE", query="select * from events", **{"cursor": "changed", "zone": "Europe/Berlin", **changed}
    )
    table = EVENTS.model_copy(update={"source": source})
    return events_world(tmp_path, table).with_source(SqlSource(url))


def insert(engine, *values):
    with engine.begin() as connection:
        for id_, who, changed in values:
            given = {"id": id_, "who": who, "at": datetime(2024, 7, 1, 12), "amount": 1.5, "changed": changed}
            if connection.dialect.name == "sqlite":
                given = {name: str(one) if isinstance(one, datetime) else one for name, one in given.items()}
            names = ", ".join(given)
            connection.execute(sa.text(f"insert into events ({names}) values (:{', :'.join(given)})"), given)


def hour(n, minute=0):
    return datetime(2024, 7, 1, n, minute)


def test_a_table_is_read_after_its_cursor_and_late_rows_within_the_lag_are_not_lost(tmp_path, database):
    url, engine = database
    world = sql_world(tmp_path, url)
    insert(engine, (1, "a", hour(1)), (2, "b", hour(2)), (3, "c", hour(2)))
    assert ingest(world) == {"arrived": 3, "published": 3}
    at = datetime(2024, 7, 1, 10, tzinfo=UTC)
    assert rows(world) == [(1, "a", at, 1.5), (2, "b", at, 1.5), (3, "c", at, 1.5)]
    insert(engine, (4, "late", hour(1, 55)), (5, "same border", hour(2)), (6, "new", hour(3)))
    ledger = ingest(world)
    assert (ledger["published"], ledger["duplicate"]) == (6, 2)
    settled = ingest(world)
    assert settled["published"] == 6
    assert ingest(world) == settled


def test_a_changed_row_is_a_revision_and_the_cursor_is_what_was_committed(tmp_path, database):
    url, engine = database
    world = sql_world(tmp_path, url)
    insert(engine, (1, "a", hour(1)), (2, "b", hour(2)))
    real = world.tools.tables

    class Dying(type(real)):
        def append(self, *given):
            raise RuntimeError

    whole = world.tools
    world.tools = replace(whole, tables=Dying())
    with pytest.raises(RuntimeError):
        world.ingest()
    world.tools = whole
    assert ingest(world) == {"arrived": 2, "published": 2}
    with engine.begin() as connection:
        moved = str(hour(5)) if engine.dialect.name == "sqlite" else hour(5)
        connection.execute(sa.text("update events set who = 'A', changed = :at where id = 1"), {"at": moved})
    ledger = ingest(world)
    assert (ledger["published"], ledger["revised"]) == (2, 1)
    assert {row[:2] for row in rows(world)} == {(1, "A"), (2, "b")}


def test_a_number_is_a_cursor_too_and_rows_at_its_border_are_not_lost(tmp_path, database):
    url, engine = database
    world = sql_world(tmp_path, url, cursor="amount")
    insert(engine, (1, "a", hour(1)), (2, "b", hour(2)))
    assert ingest(world)["published"] == 2
    insert(engine, (3, "same amount", hour(1)))
    assert ingest(world)["published"] == 3


def test_rows_without_a_cursor_arrive_and_are_looked_at_again(tmp_path, database):
    url, engine = database
    world = sql_world(tmp_path, url, lag=timedelta(0))
    insert(engine, (1, "a", hour(1)), (2, "no time", None))
    assert ingest(world) == {"arrived": 2, "published": 2}
    assert ingest(world) == {"arrived": 2, "published": 2}
    insert(engine, (3, "none either", None))
    assert ingest(world)["published"] == 3


def test_a_wrong_query_and_an_absent_database_are_told_without_the_password(tmp_path, postgres, monkeypatch):
    url = postgres.url("touchline").replace("postgresql", "postgresql+psycopg")
    world = sql_world(tmp_path, url)
    with pytest.raises(BadUseCase, match="query cannot be run"):
        ingest(world)
    away = url.replace(f":{postgres.port}/", ":9/")
    secret = sa.make_url(url).password
    world.with_source(SqlSource(away))
    with pytest.raises(ServiceAway) as told:
        ingest(world)
    assert secret not in str(told.value)
    monkeypatch.delenv("SOURCE", raising=False)
    with pytest.raises(BadSettings, match="SOURCE: a use case reads it"):
        wiring.sql_source(world.use_case.tables[0].source)
    with pytest.raises(ValueError, match="a URL with a password stands in no file") as refused:
        Sql(url=url, query="select 1", cursor="id")
    assert secret not in str(refused.value)


# --- answers --------------------------------------------------------------------------------------------

ANSWERS = Table(
    name="answers",
    source=Answers(),
    key=("prediction_id",),
    columns=(
        Field(name="prediction_id", type="text", example="x-0"),
        Field(name="User_ID", type="text", example="5"),
        Field(name="event_time", type="time", example="2024-01-01T00:00:00Z"),
        *(field.model_copy(update={"optional": True}) for field in INPUTS),
        Field(name="Calories", type="number", example=1.0),
    ),
)


@pytest.fixture
def log(postgres, tmp_path):
    """The platform's tables, a spool, and a clock that joins."""
    url = own_database(postgres)
    migrations.upgrade(url)
    head = Header("calories", "a", "1", "digest-1", ("Age", "Gender"), ("calories",))
    spool = FolderSpool(tmp_path / "spool" / "calories" / "a", head)

    def work():
        with shipper.connect(url) as connection:
            shipper.ship(connection, tmp_path / "spool")
            label_clock.catch_up(connection, lambda _: USE_CASE)

    return url, spool, work


def predicted(request, age=40.0, key="k", shadow=False):
    return Predictions(request, instant(NOW), 500, [0], [None], [key], [None], [[age], ["male"]], [[1.0]], shadow)


def labelled(name, actual, after=1):
    observed = NOW + timedelta(hours=after)
    return Labels(instant(observed), "api", [(name, None, None, actual, instant(observed))])


def test_answered_predictions_with_labels_are_training_rows_and_newer_labels_revise_them(tmp_path, log):
    url, spool, work = log
    world = events_world(tmp_path, ANSWERS).with_source(AnswersSource(url, USE_CASE))
    spool.append(predicted("p"))
    spool.append(predicted("q", key=None))
    spool.append(predicted("shadow", shadow=True))
    spool.append(labelled("p-0", 100.0))
    work()
    assert ingest(world, table="answers") == {"arrived": 1, "published": 1}
    (row,) = rows(world, "answers")
    assert (row[0], row[1], row[2], row[3], row[4], row[-1]) == ("p-0", "k", NOW, "male", 40, 100.0)
    assert ingest(world, table="answers") == {"arrived": 1, "published": 1}
    spool.append(labelled("q-0", 50.0))
    spool.append(labelled("p-0", 101.0, after=2))
    spool.append(labelled("later-0", 7.0))
    work()
    assert ingest(world, table="answers") == {"arrived": 3, "published": 2, "revised": 1}
    assert {(row[0], row[1], row[-1]) for row in rows(world, "answers")} == {
        ("p-0", "k", 101.0),
        ("q-0", "q-0", 50.0),
    }
    spool.append(predicted("later"))
    work()
    assert ingest(world, table="answers")["published"] == 3


def test_a_later_record_of_the_same_id_revises_its_row(tmp_path, log):
    url, spool, work = log
    world = events_world(tmp_path, ANSWERS).with_source(AnswersSource(url, USE_CASE))
    spool.append(predicted("p"))
    spool.append(labelled("p-0", 100.0))
    work()
    ingest(world, table="answers")
    spool.append(predicted("p", age=41.0))
    work()
    assert ingest(world, table="answers") == {"arrived": 2, "published": 1, "revised": 1}
    assert [row[4] for row in rows(world, "answers")] == [41]
