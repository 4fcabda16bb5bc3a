import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import count

import psycopg
import pytest

from pipelines import migrations
from pipelines.errors import Busy
from pipelines.predictions import label_clock, quality, shipper, tables
from pipelines.predictions.spool import FolderSpool, Header, Labels, Predictions
from pipelines.serving.contract import instant
from pipelines.use_cases.calories import USE_CASE
from tests.conftest import wait_for

START = datetime(2026, 3, 1, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)
NUMBERS = count()


@pytest.fixture
def url(postgres):
    """An empty database of its own, with the platform's tables."""
    name = f"log{next(NUMBERS)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} owner touchline")
    own = postgres.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(own)
    return own


@pytest.fixture
def connection(url):
    with shipper.connect(url) as opened:
        yield opened


def header(place: str = "a", version: str = "1") -> Header:
    return Header("calories", place, version, f"digest-{version}", ("Age", "Gender"), ("calories",))


def spool_of(folder, place: str = "a", version: str = "1", **limits: int) -> FolderSpool:
    return FolderSpool(folder / "calories" / place, header(place, version), **limits)


def prediction(request: str, at: datetime, output: float = 1.0, client: str | None = None, shadow: bool = False):
    return Predictions(
        request, instant(at), 500, [0], [client], ["k"], [None], [[40.0], ["male"]], [[output]], shadow
    )


def label(
    name: str | None, actual: float, observed: datetime, received: datetime, key: str | None = None
) -> Labels:
    return Labels(instant(received), "api", [(name, key, None, actual, instant(observed))])


def work(connection, folder) -> None:
    shipper.ship(connection, folder)
    label_clock.catch_up(connection, lambda _: USE_CASE)


def counts(connection, now: datetime) -> quality.Counts:
    return quality.counts(connection, USE_CASE, now)


def test_an_upgrade_changes_nothing_the_second_time(url):
    migrations.upgrade(url)


def test_records_arrive_in_the_log_as_they_were_answered(connection, tmp_path):
    writer = spool_of(tmp_path)
    writer.append(
        Predictions(
            "r", instant(START), 1500, [0, 2], ["mine", None], ["5", None], [None, instant(START - HOUR)],
            [[40.0, 41.0], ["male", None]], [[1.5, 2.5]],
        )
    )  # fmt: skip
    assert shipper.ship(connection, tmp_path) == (2, 0, 0)
    assert shipper.ship(connection, tmp_path) == (0, 0, 0)
    rows = connection.execute(
        "select prediction_id, client_id, entity_key, event_time, inputs, outputs, latency_ms, place,"
        " bento_digest from predictions order by seq"
    ).fetchall()
    one = (
        "r-0",
        "mine",
        "5",
        START,
        {"Age": 40.0, "Gender": "male"},
        {"calories": 1.5},
        1.5,
        "a",
        "digest-1",
    )
    two = (
        "r-2",
        None,
        None,
        START - HOUR,
        {"Age": 41.0, "Gender": None},
        {"calories": 2.5},
        1.5,
        "a",
        "digest-1",
    )
    assert rows == [one, two]


def test_finished_segments_go_and_nothing_is_shipped_twice(connection, tmp_path):
    writer = spool_of(tmp_path, segment=400)
    for number in range(20):
        writer.append(prediction(f"r{number}", START))
        if number % 7 == 0:
            shipper.ship(connection, tmp_path)
    writer.close()
    shipper.ship(connection, tmp_path)
    assert not list(tmp_path.rglob("*.spool"))
    shipper.ship(connection, tmp_path)
    assert connection.execute("select count(*), count(distinct prediction_id) from predictions").fetchone() == (
        20,
        20,
    )
    assert connection.execute("select count(*) from spool_offsets").fetchone() == (0,)


def test_a_torn_end_is_set_aside_and_what_is_whole_arrives(connection, tmp_path):
    writer = spool_of(tmp_path)
    for name in "ab":
        writer.append(prediction(name, START))
    writer.close()
    (segment,) = tmp_path.rglob("*.spool")
    os.truncate(segment, segment.stat().st_size - 3)
    assert shipper.ship(connection, tmp_path) == (1, 0, 1)
    assert not segment.exists() and segment.with_suffix(".torn").exists()


def test_rows_and_offset_come_together_or_not_at_all(connection, tmp_path, monkeypatch):
    spool_of(tmp_path).append(prediction("r", START))

    def cut(*_: object) -> None:
        raise psycopg.OperationalError("the database went away")

    with monkeypatch.context() as patch, pytest.raises(psycopg.OperationalError):
        patch.setattr(tables, "append_labels", cut)
        shipper.ship(connection, tmp_path)
    assert connection.execute("select count(*) from spool_offsets").fetchone() == (0,)
    assert shipper.ship(connection, tmp_path).predictions == 1


def test_one_shipper_at_a_time(connection, url):
    shipper.lead(connection)
    with shipper.connect(url) as second, pytest.raises(Busy):
        shipper.lead(second)


def test_the_newest_observation_is_in_force_however_often_it_is_sent(connection, tmp_path):
    writer = spool_of(tmp_path)
    writer.append(prediction("r", START, output=3.0, client="mine"))
    for name, actual, observed in (("r-0", 5.0, 2), ("mine", 4.0, 1), ("r-0", 5.0, 2), ("mine", 7.0, 3)):
        writer.append(label(name, actual, START + observed * HOUR / 10, START + HOUR / 2))
        work(connection, tmp_path)
    (version,) = counts(connection, START + 2 * HOUR).versions
    assert version[:5] == ("1", 1, 1, 0, 0)
    assert version.mean_loss == pytest.approx(16)


def looked_at(connection) -> int:
    return label_clock.catch_up(connection, lambda _: USE_CASE)


def test_where_every_number_was_looked_at_no_partition_is_asked(connection, tmp_path, monkeypatch):
    spool_of(tmp_path).append(prediction("r", START))
    work(connection, tmp_path)
    looked_at(connection)
    monkeypatch.setattr(label_clock, "_NEWEST", "select 1 / 0")
    assert looked_at(connection) == 0
    spool_of(tmp_path, "b").append(label("r-0", 1.0, START, START))
    shipper.ship(connection, tmp_path)
    with pytest.raises(psycopg.Error):
        looked_at(connection)


def test_a_number_that_was_given_and_is_not_to_be_seen_yet_is_looked_at_later(connection, url, tmp_path):
    spool_of(tmp_path).append(prediction("r", START))
    work(connection, tmp_path)
    same = (
        "use_case, entity_key, event_time, requested_at, place, role, model_version, bento_digest, inputs, outputs"
    )
    with shipper.connect(url) as other:
        with tables.turn(other):
            other.execute(
                f"insert into predictions (prediction_id, latency_ms, shadow, {same})"
                f" select 's-0', 1, false, {same} from predictions"
            )
            assert [looked_at(connection) for _ in range(2)] == [0, 0]
        assert [looked_at(connection) for _ in range(2)] == [1, 0]


def test_a_number_that_was_given_and_given_up_hides_nothing(connection, url, tmp_path):
    spool_of(tmp_path).append(prediction("r", START))
    work(connection, tmp_path)
    with shipper.connect(url) as other, other.transaction(force_rollback=True):
        other.execute("select nextval('predictions_seq_seq'), nextval('labels_seq_seq')")
    assert looked_at(connection) == 0
    spool_of(tmp_path, "b").append(prediction("s", START))
    shipper.ship(connection, tmp_path)
    assert looked_at(connection) == 1


def test_the_first_predictions_of_a_use_case_are_joined_also_where_their_first_look_was_killed(
    connection, tmp_path, monkeypatch
):
    definition = label_clock.Sums(USE_CASE).definition
    connection.execute("insert into label_clock values ('other', 0, 0, %s)", (definition,))
    spool_of(tmp_path).append(prediction("r", START))
    shipper.ship(connection, tmp_path)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(label_clock, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        looked_at(connection)
    assert [looked_at(connection) for _ in range(2)] == [1, 0]


def test_a_mistyped_year_does_not_keep_later_labels_from_counting(connection, tmp_path):
    writer = spool_of(tmp_path)
    writer.append(prediction("r", START))
    writer.append(prediction("s", START))
    writer.append(label("r-0", 3.0, START.replace(year=2099), START + HOUR))
    writer.append(label(None, 3.0, START.replace(year=2099), START + HOUR / 2, key="k"))
    work(connection, tmp_path)
    rows = "select prediction_seq, actual, observed_at from outcomes order by 1"
    assert [row[1:] for row in connection.execute(rows)] == [(3.0, START + HOUR), (3.0, START + HOUR / 2)]
    writer.append(label("r-0", 7.0, START + 2 * HOUR, START + 2 * HOUR))
    work(connection, tmp_path)
    assert [row[1] for row in connection.execute(rows)] == [7.0, 3.0]


def test_a_label_may_come_before_its_prediction_and_after_the_horizon(connection, tmp_path):
    writer = spool_of(tmp_path)
    writer.append(label("r-0", 3.0, START + 2 * HOUR, START + 2 * HOUR))
    writer.append(label(None, 3.0, START, START, key="k"))
    work(connection, tmp_path)
    told = counts(connection, START)
    assert (told.labels, told.orphans, told.keyed) == (2, 1, 1)
    writer.append(prediction("r", START, output=1.0))
    writer.append(prediction("s", START))
    work(connection, tmp_path)
    told = counts(connection, START + 3 * HOUR)
    assert told.orphans == 0
    (version,) = told.versions
    assert (version.labelled, version.late, version.expired, version.mean_loss) == (1, 1, 1, 4.0)


def test_the_last_record_of_an_id_is_the_answer_and_keeps_its_label(connection, tmp_path):
    writer, other = spool_of(tmp_path), spool_of(tmp_path, "b", "2")
    writer.append(prediction("r", START, output=1.0))
    writer.append(label("r-0", 3.0, START, START))
    work(connection, tmp_path)
    other.append(prediction("r", START + timedelta(hours=3), output=2.0))
    work(connection, tmp_path)
    first, second = counts(connection, START).versions
    assert (first.recorded, first.superseded, first.labelled) == (0, 1, 0)
    assert (second.recorded, second.labelled, second.loss_sum) == (1, 1, 1.0)


def recomputed(predictions, labels, now) -> dict[str, tuple]:
    """The same from scratch, from what was sent."""
    last: dict[tuple, tuple] = {}
    superseded: dict[str, int] = defaultdict(int)
    shadows: dict[str, int] = defaultdict(int)
    for order, (request, at, output, client, version, shadow) in enumerate(predictions):
        key = (request, shadow, version if shadow else None)
        rank = (at, order)
        shadows[version] += shadow
        if key in last and not shadow:
            superseded[last[key][2] if rank > last[key][0] else version] += 1
        if key not in last or rank > last[key][0]:
            last[key] = (rank, (at, output, client, request), version)
    table: dict[str, list] = {version: [0, 0, 0, 0, 0, 0, 0, 0.0] for version in {each[4] for each in predictions}}
    for (_, shadow, _), (_, (at, output, client, request), version) in last.items():
        if shadow:
            continue
        row = table[version]
        row[0] += 1
        mine = [each for each in labels if each[0] in {f"{request}-0", client}]
        if mine:
            newest = max(mine, key=lambda each: (each[2], each[3]))
            row[1] += 1
            row[4] += min(each[3] for each in mine) > at + HOUR
            row[7] += (output - newest[1]) ** 2
        elif at >= now - HOUR:
            row[2] += 1
        else:
            row[3] += 1
    for version, row in table.items():
        row[5], row[6] = superseded[version], shadows[version]
    return {version: tuple(row) for version, row in table.items()}


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_counted_twice_in_any_order(connection, tmp_path, seed):
    chance = random.Random(seed)
    spools = {
        ("a", "1"): spool_of(tmp_path, "a", "1", segment=2000),
        ("b", "2"): spool_of(tmp_path, "b", "2"),
    }
    predictions, labels, arrived = [], [], {place: [] for place in spools}
    for step in range(150):
        at = START + chance.randrange(300) * HOUR / 60 + timedelta(microseconds=step)
        place = chance.choice(list(spools))
        name = f"r{chance.randrange(40)}"
        client = f"c{int(name[1:]) // 2}" if int(name[1:]) % 3 else None
        if chance.random() < 0.5:
            shadow = chance.random() < 0.2
            one = (name, at, float(chance.randrange(5)), client, place[1], shadow)
            spools[place].append(prediction(name, at, one[2], client, shadow))
            arrived[place].append((predictions, one))
        else:
            one = (
                chance.choice([f"{name}-0", client or "nobody"]),
                float(chance.randrange(5)),
                at,
                at + chance.random() * HOUR,
            )
            for _ in range(chance.choice([1, 1, 3])):
                spools[place].append(label(*one))
            arrived[place].append((labels, one))
        if chance.random() < 0.1:
            work(connection, tmp_path)
    work(connection, tmp_path)
    for told in arrived.values():
        for target, one in told:
            target.append(one)
    for now in (START, START + 2 * HOUR, START + 4 * HOUR, START + 99 * HOUR):
        versions = counts(connection, now).versions
        for each in versions:
            assert each.recorded == each.labelled + each.pending + each.expired
            assert each.scored == each.labelled
        told = {each.model_version: (*each[1:8], each.loss_sum) for each in versions}
        assert told == recomputed(predictions, labels, now)
    every = {f"{each[0]}-0" for each in predictions} | {each[3] for each in predictions}
    unknown = connection.execute(
        "select count(*) from labels where prediction_id <> all(%s)", ([*filter(None, every)],)
    )
    assert counts(connection, START).orphans == unknown.fetchone()[0]


def test_the_shipper_waits_for_the_database_and_goes_on(postgres, url, tmp_path, home):
    databases = dict.fromkeys(("DATABASE_URL", "AIRFLOW_DATABASE_URL", "MLFLOW_DATABASE_URL"), url)
    own = {f"TOUCHLINE_{name}": value for name, value in databases.items()}
    environment = {"TOUCHLINE_HOME": str(home.root), **own, "PATH": os.defpath}
    writer = FolderSpool(home.spool / "calories" / "a", header())
    words = [sys.executable, "-m", "pipelines.predictions.shipper"]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)

    def arrived(n: int) -> bool:
        with psycopg.connect(url) as connection:
            return connection.execute("select count(*) from predictions").fetchone() == (n,)

    try:
        writer.append(prediction("r", START))
        wait_for(lambda: arrived(1), "the first record")
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
            name = url.rpartition("/")[2]
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        writer.append(prediction("s", START))
        wait_for(lambda: arrived(2), "the second record")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    writer.append(prediction("t", START))
    wait_for(lambda: subprocess.run([*words, "--once"], env=environment, check=False).returncode == 0, "the lock")
    assert arrived(3)
