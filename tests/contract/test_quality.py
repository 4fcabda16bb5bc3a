"""The label clock's cells on a real PostgreSQL: whatever comes in whatever order, they are what the rows say."""

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from pipelines import metrics, migrations
from pipelines.predictions import cells, label_clock, quality, shipper, tables
from pipelines.predictions.sums import Sums
from pipelines.spec import Slice
from pipelines.use_cases.calories import USE_CASE as CALORIES

START = datetime(2026, 3, 1, 22, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
NUMBERS = count()
BURNT_MUCH = 3.0


def much(actual):
    return (actual >= BURNT_MUCH).astype(float)


USE = CALORIES.model_copy(
    update={
        "horizon": HOUR,
        "slices": (Slice(by=("Gender",)), Slice(by=("Gender", "Age"), edges={"Age": (40.0,)})),
        "metrics": {
            "rmse": metrics.rmse("calories"),
            "brier": metrics.brier("much", much),
            "ece": metrics.ece("much", much),
            "auc": metrics.auc("much", much),
            "by hand": lambda outputs, actual: 0.0,
        },
    }
)


class Record(NamedTuple):
    """One prediction as it is put into the log."""

    name: str
    client: str | None
    key: str | None
    event_time: datetime | None
    at: datetime
    version: str
    role: str | None
    shadow: bool
    gender: str
    age: float
    output: float

    @property
    def row(self) -> tuple[Any, ...]:
        outputs = {"calories": self.output, "much": self.output / 5}
        return (
            "calories", self.name, self.client, self.key, self.event_time or self.at, self.at, "a", self.version,
            "digest", Jsonb({"Gender": self.gender, "Age": self.age}), Jsonb(outputs), 0.5, None, self.shadow,
            self.role,
        )  # fmt: skip

    @property
    def owner(self) -> cells.Owner:
        return cells.Owner(self.version, "shadow" if self.shadow else self.role or "direct")

    @property
    def slices(self) -> set[str]:
        age = "..40" if self.age < 40 else "40.."
        return {"all", f"Gender={self.gender}", f"Gender={self.gender}, Age={age}"}


class Label(NamedTuple):
    """One label as it is put into the log."""

    name: str | None
    key: str | None
    event_time: datetime | None
    actual: float
    observed: datetime
    received: datetime

    @property
    def row(self) -> tuple[Any, ...]:
        return ("calories", *self, "api")


def times(minutes: int) -> st.SearchStrategy[datetime]:
    return st.integers(0, minutes * 60).map(lambda seconds: START + timedelta(seconds=seconds))


KEYS = st.sampled_from(["k1", "k2"])
TODAY = int(START.timestamp()) // 86_400
IDS = st.sampled_from([f"p{n}-0" for n in range(3)] + [f"{TODAY}-p{n}-0" for n in range(3)])
"""As a place gives them where no proxy asked, and as the proxy does: with their day."""
CLIENTS = st.sampled_from(["c1", "c2", "p0-0", f"{TODAY}-p0-0"])
EVENTS = st.sampled_from([START, START + 7 * MINUTE])
RECORDS = st.lists(
    st.builds(
        Record, IDS, st.none() | CLIENTS, st.none() | KEYS,
        st.none() | EVENTS, times(120), st.sampled_from(["1", "2"]), st.sampled_from([None, "stable", "canary"]),
        st.integers(0, 5).map(lambda n: n == 0), st.sampled_from(["male", "female"]),
        st.sampled_from([30.0, 40.0]), st.integers(0, 5).map(float),
    ),
    max_size=25,
    unique_by=lambda record: record.at,
)  # fmt: skip
BY_ID = st.builds(
    Label, IDS | st.sampled_from(["c1", "c2", "nobody"]), st.none(), st.none(),
    st.integers(0, 5).map(float), times(180), times(180),
)  # fmt: skip
BY_KEY = st.builds(
    Label, st.none(), KEYS, st.none() | EVENTS, st.integers(0, 5).map(float), times(180), times(180)
)
LABELS = st.lists(BY_ID | BY_KEY, max_size=25)


@pytest.fixture
def url(postgres):
    return fresh(postgres, "head")


def fresh(postgres, revision: str) -> str:
    """An empty database of its own."""
    name = f"quality{next(NUMBERS)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} owner touchline")
    own = postgres.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(own, revision)
    return own


@pytest.fixture
def connection(url):
    with shipper.connect(url) as opened:
        yield opened


def put(connection, *rows: Record | Label) -> None:
    """Into the log, as one transaction of a writer."""
    with tables.turn(connection):
        tables.append_predictions(connection, [row.row for row in rows if isinstance(row, Record)])
        tables.append_labels(connection, [row.row for row in rows if isinstance(row, Label)])


def catch_up(connection, use_case=USE) -> None:
    label_clock.catch_up(connection, lambda _: use_case)


def clean(connection) -> None:
    connection.execute("truncate predictions, labels, outcomes, cells, label_clock")


def record(name: str = "p-0", at: datetime = START, **changed: Any) -> Record:
    given = {
        "client": None, "key": None, "event_time": None, "version": "1", "role": "stable", "shadow": False,
        "gender": "male", "age": 30.0, "output": 1.0, **changed,
    }  # fmt: skip
    return Record(name=name, at=at, **given)


def label(name: str | None = None, actual: float = 3.0, observed: datetime = START, **changed: Any) -> Label:
    given = {"key": None, "event_time": None, "received": observed, **changed}
    return Label(name=name, actual=actual, observed=observed, **given)


def retried(records: list[Record]) -> list[Record]:
    """Records of one id are tries of one request: they tell the same of the client, the entity and the event."""
    first: dict[str, Record] = {}
    for one in records:
        first.setdefault(one.name, one)
    told = ("client", "key", "event_time", "gender", "age")
    return [one._replace(**{name: getattr(first[one.name], name) for name in told}) for one in records]


# --- an oracle: the same from scratch, in plain Python ------------------------------------------------------


def in_force(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """The last of each id, and the others."""
    last: dict[tuple[Any, ...], Record] = {}
    for one in sorted(records, key=lambda each: each.at):
        last[one.name, one.shadow, one.version if one.shadow else None] = one
    live = list(last.values())
    return live, [one for one in records if one not in live]


def outcome(one: Record, labels: list[Label]) -> tuple[Label, bool] | None:
    """The label in force, and whether the first one came late."""
    own = [each for each in labels if each.name is not None and each.name in {one.name, one.client}]
    timed = one.event_time or one.at
    keyed = [each for each in labels if each.name is None and each.key == one.key is not None]
    own += [each for each in keyed if each.event_time == timed]
    weak = [each for each in keyed if each.event_time is None and one.at < each.observed <= one.at + HOUR]
    if not own + weak:
        return None
    newest = max(own or weak, key=lambda each: (each.observed, each.received, each.actual))
    return newest, min(each.received for each in own + weak) > one.at + HOUR


def expected(records: list[Record], labels: list[Label], now: datetime, begin: datetime, end: datetime):
    """(owner, slice) to counts and mean loss, of what was requested from begin to end."""
    live, gone = in_force(records)
    table: dict[Any, Counter] = {}
    for one in [*live, *gone]:
        for name in one.slices if begin <= one.at < end else ():
            cell = table.setdefault((one.owner, name), Counter())
            if one in gone:
                cell["superseded"] += 1
                continue
            cell["recorded"] += 1
            told = outcome(one, labels)
            if told is None:
                cell["pending" if one.at >= now - HOUR else "expired"] += 1
            else:
                cell["labelled"] += 1
                cell["late"] += told[1]
                cell["loss"] += (one.output - told[0].actual) ** 2
    return table


def told(connection, now: datetime, window: str):
    found = {}
    for each in quality.quality(connection, USE, now, window):
        assert each.recorded == each.labelled + each.pending + each.expired
        cell = Counter({name: getattr(each, name) for name in ("superseded", "recorded", "pending", "expired")})
        cell.update({"labelled": each.labelled, "late": each.late})
        cell["loss"] = (each.mean_loss.value if each.mean_loss else 0.0) * each.labelled
        found[cells.Owner(each.model_version, each.role), each.slice] = cell
    return found


def shortest(connection, now: datetime) -> list[quality.Quality]:
    """`newest`, of windows that are asked one by one."""
    found: dict[tuple[str, str], quality.Quality] = {}
    for window in (*quality.WINDOWS, quality.EVER):
        for each in quality.quality(connection, USE, now, window, every_slice=False):
            key = each.model_version, each.role
            if key not in found or found[key].labelled == 0:
                found[key] = each
    return [found[key] for key in sorted(found)]


def same(found, wanted) -> bool:
    return set(found) == set(wanted) and all(
        found[key][name] == pytest.approx(wanted[key][name], abs=1e-6)
        for key in wanted
        for name in ("recorded", "superseded", "labelled", "pending", "expired", "late", "loss")
    )


@settings(
    max_examples=60,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(records=RECORDS, labels=LABELS, again=st.integers(0, 5), seed=st.randoms(use_true_random=False))
def test_in_any_order_of_arrival_the_cells_are_what_the_rows_say(
    connection, monkeypatch, records, labels, again, seed
):
    monkeypatch.setattr(label_clock, "AT_ONCE", 7)
    clean(connection)
    records = retried(records)
    arriving = [*records, *labels, *labels[:again]]
    seed.shuffle(arriving)
    while arriving:
        n = seed.randint(1, 20)
        put(connection, *arriving[:n])
        arriving = arriving[n:]
        if seed.random() < 0.6:
            catch_up(connection)
    catch_up(connection)
    labels = [each._replace(observed=min(each.observed, each.received)) for each in labels]
    for minutes in (0, 31, 67, 190, 600, 60_000):
        now = START + minutes * MINUTE
        wanted = expected(records, labels, now, cells.EPOCH, cells.NEVER)
        assert same(told(connection, now, "ever"), wanted)
        by_version = quality.counts(connection, USE, now)
        for each in by_version.versions:
            assert each.recorded == each.labelled + each.pending + each.expired
        for window, length in quality.WINDOWS.items():
            begin, end = cells.start_of(now - length, 5), cells.start_of(now, 5) + 5 * MINUTE
            assert same(told(connection, now, window), expected(records, labels, now, begin, end))
        assert list(quality.newest(connection, USE, now)) == shortest(connection, now)
    names = {one.name for one in records} | {one.client for one in records}
    counted = quality.counts(connection, USE, START)
    rows = connection.execute("select prediction_id from labels").fetchall()
    assert counted.labels == len(rows)
    assert counted.orphans == sum(name is not None and name not in names for (name,) in rows)
    assert counted.keyed == sum(name is None for (name,) in rows)


# --- the rules, one by one ----------------------------------------------------------------------------------


def only(connection, now: datetime = START + 2 * HOUR, version: str = "1") -> quality.Version:
    found = {each.model_version: each for each in quality.counts(connection, USE, now).versions}
    return found[version]


def test_a_label_by_key_alone_is_for_all_that_wait_of_that_key_and_were_asked_before(connection):
    put(
        connection,
        *(record(f"p{n}-0", START + n * MINUTE, key="k") for n in range(3)),
        record("q-0", START + MINUTE / 2, key="another"),
        label(key="k", observed=START + 1.5 * MINUTE),
    )
    catch_up(connection)
    assert (only(connection).recorded, only(connection).labelled) == (4, 2)


def test_a_label_by_key_alone_is_not_for_what_had_expired_or_has_a_label_of_its_own(connection):
    put(
        connection,
        record("old-0", START - HOUR, key="k"),
        record("mine-0", START + MINUTE, key="k", output=1.0),
        label("mine-0", 1.0, START + 2 * MINUTE),
        label(key="k", actual=5.0, observed=START + 3 * MINUTE),
    )
    catch_up(connection)
    assert (only(connection).labelled, only(connection).expired, only(connection).loss_sum) == (1, 1, 0.0)


def test_a_label_by_key_and_event_time_meets_that_event_however_late(connection):
    event = START - 9 * HOUR
    put(connection, record(key="k", event_time=event), record("q-0", START + MINUTE, key="k"))
    put(connection, label(key="k", event_time=event, observed=START + 5 * HOUR))
    put(connection, label(key="k", event_time=START + MINUTE, observed=START + 2 * MINUTE))
    catch_up(connection)
    assert (only(connection).labelled, only(connection).late) == (2, 1)


def test_a_label_by_key_may_come_before_the_record_and_waits_for_it(connection):
    put(connection, label(key="k", observed=START + MINUTE), label("p-0"))
    catch_up(connection)
    before = quality.counts(connection, USE, START)
    put(connection, record(key="k"))
    catch_up(connection)
    after = quality.counts(connection, USE, START)
    assert (before.orphans, before.keyed, before.waiting) == (1, 1, 1)
    assert (after.orphans, after.keyed, after.waiting) == (0, 1, 0)
    assert only(connection).labelled == 1


def test_one_label_by_a_clients_own_id_is_for_all_predictions_of_that_id(connection):
    put(connection, *(record(f"p{n}-0", START + n * MINUTE, client="mine") for n in range(3)), label("mine"))
    catch_up(connection)
    assert only(connection).labelled == 3


def test_a_newer_observation_takes_the_place_of_the_older_one_and_is_counted_once(connection):
    put(connection, record(output=1.0), label("p-0", 3.0, START + MINUTE))
    catch_up(connection)
    put(connection, *[label("p-0", 2.0, START + 2 * MINUTE)] * 3, label("p-0", 9.0, START))
    catch_up(connection)
    assert (only(connection).labelled, only(connection).loss_sum) == (1, 1.0)


def test_after_the_horizon_a_label_turns_expired_into_labelled_and_is_counted_late(connection):
    put(connection, record())
    catch_up(connection)
    assert only(connection, START + HOUR).pending == 1
    assert only(connection, START + HOUR + MINUTE).expired == 1
    put(connection, label("p-0", observed=START, received=START + 3 * HOUR))
    catch_up(connection)
    assert (only(connection).labelled, only(connection).late, only(connection).expired) == (1, 1, 0)


def test_the_horizon_is_exact_within_its_five_minutes(connection):
    put(connection, *(record(f"p{n}-0", START + n * MINUTE) for n in range(10)))
    catch_up(connection)
    for minutes in range(12):
        now = START + HOUR + minutes * MINUTE
        assert only(connection, now).pending == max(0, 10 - minutes)
        (one,) = (each for each in quality.quality(connection, USE, now, "1d") if each.slice == "Gender=male")
        assert (one.pending, one.expired) == (max(0, 10 - minutes), min(10, minutes))


def test_each_metric_of_each_slice_is_that_of_its_rows(connection):
    random = np.random.default_rng(5)
    rows = [
        record(
            f"p{n}-0", START + n * MINUTE, gender=str(random.choice(["male", "female"])),
            age=float(random.choice([30, 40])), output=float(random.integers(0, 6)),
        )
        for n in range(300)
    ]  # fmt: skip
    actual = {one.name: float(random.integers(0, 6)) for one in rows}
    put(connection, *rows, *(label(name, value, START + 9 * HOUR) for name, value in actual.items()))
    catch_up(connection)
    for each in quality.quality(connection, USE, START + 9 * HOUR, "1d"):
        mine = [one for one in rows if each.slice in one.slices]
        outputs = {
            "calories": np.array([one.output for one in mine]),
            "much": np.array([one.output / 5 for one in mine]),
        }
        happened = np.array([actual[one.name] for one in mine])
        assert set(each.metrics) == {"rmse", "brier", "ece", "auc"}
        for name, figure in each.metrics.items():
            assert figure.value == pytest.approx(USE.metrics[name](outputs, happened), abs=1e-9)
            assert figure.lower <= figure.value <= figure.upper
            assert figure.n == len(mine)
        lags = sorted((START + 9 * HOUR - one.at).total_seconds() for one in mine)
        assert each.lag_p50_seconds == pytest.approx(lags[len(lags) // 2], rel=0.1)
        assert each.coverage.value == 1


def test_a_row_without_a_finite_loss_is_labelled_and_left_out_of_the_mean(connection):
    put(connection, record("a-0", output=1.0), record("b-0", START + MINUTE, output=1e200))
    put(connection, label("a-0", 3.0), label("b-0", 3.0))
    catch_up(connection)
    assert (only(connection).labelled, only(connection).scored, only(connection).mean_loss) == (2, 1, 4.0)


def test_a_mistyped_label_leaves_no_trace_when_it_is_corrected(connection):
    rows = [record(f"p{n}-0", START + n * MINUTE, output=1.0 + n) for n in range(10)]
    put(connection, *rows, *(label(f"p{n}-0", 1.5, START + HOUR) for n in range(10)))
    catch_up(connection)
    before = [quality.quality(connection, USE, START + HOUR, window) for window in (*quality.WINDOWS, "ever")]
    for actual, hours in ((1e38, 2), (1.5, 3)):
        put(connection, label("p3-0", actual, START + hours * HOUR))
        catch_up(connection)
    after = [quality.quality(connection, USE, START + HOUR, window) for window in (*quality.WINDOWS, "ever")]
    for window, anew in zip(before, after, strict=True):
        for one, other in zip(window, anew, strict=True):
            assert (one.recorded, one.labelled, one.late) == (other.recorded, other.labelled, other.late)
            assert _close(one, other)


def _close(one: quality.Quality, other: quality.Quality) -> bool:
    pairs = [
        (one.mean_loss, other.mean_loss),
        *((one.metrics[name], other.metrics[name]) for name in one.metrics),
    ]
    return all(left == right or left.model_dump() == pytest.approx(right.model_dump()) for left, right in pairs)


def test_another_definition_counts_everything_anew_in_small_steps(connection, monkeypatch):
    rows = [record(f"p{n % 30}-0", START + n * MINUTE, key=f"k{n % 3}") for n in range(50)]
    put(connection, *rows, *(label(f"p{n}-0", float(n), START + HOUR) for n in range(20)))
    put(connection, label(key="k1", observed=START + 40 * MINUTE), label("nobody"))
    catch_up(connection, USE.model_copy(update={"slices": (), "metrics": {"rmse": USE.metrics["rmse"]}}))
    totals = quality.counts(connection, USE, START)
    assert quality.quality(connection, USE, START + HOUR, "ever")[0].mean_loss is None
    monkeypatch.setattr(label_clock, "AT_ONCE", 7)
    catch_up(connection)
    assert quality.counts(connection, USE, START) == totals
    anew = told(connection, START + HOUR, "ever")
    clean(connection)
    put(connection, *rows, *(label(f"p{n}-0", float(n), START + HOUR) for n in range(20)))
    put(connection, label(key="k1", observed=START + 40 * MINUTE), label("nobody"))
    catch_up(connection)
    assert same(told(connection, START + HOUR, "ever"), anew)


def test_metrics_that_are_no_sums_are_named_as_not_tracked():
    assert Sums(USE).untracked == ("by hand",)


def test_a_home_of_the_revision_before_keeps_its_rows_and_gets_its_cells(postgres):
    url = fresh(postgres, "0002")
    with shipper.connect(url) as connection:
        rows = [record(f"p{n}-0", START + n * MINUTE, key="k") for n in range(5)]
        put(connection, *rows, label("p0-0", 3.0, START + HOUR), label(key="k", observed=START + 2.5 * MINUTE))
        connection.execute(
            "insert into outcomes (prediction_seq, use_case, requested_at, model_version, shadow, actual, loss,"
            " observed_at, first_received_at, label_seq) select p.seq, p.use_case, p.requested_at, '1', false,"
            " 3, 4, l.observed_at, l.received_at, l.seq"
            " from predictions p join labels l using (use_case, prediction_id)"
        )
        connection.execute("update labels set joined = true where prediction_id is not null")
        connection.execute("insert into label_clock values ('calories', 5, 2)")
        migrations.upgrade(url)
        catch_up(connection)
        found = quality.counts(connection, USE, START)
        (version,) = found.versions
        assert (version.recorded, version.labelled, version.loss_sum) == (5, 3, 12.0)
        assert (found.labels, found.orphans, found.keyed, found.waiting) == (2, 0, 1, 0)


def test_a_writer_that_began_first_and_commits_last_loses_nothing(connection, url):
    put(connection, *(record(f"p{n}-0", START + n * MINUTE) for n in range(2)), label("nobody"))
    began, may_end = threading.Event(), threading.Event()

    def first() -> None:
        with shipper.connect(url) as own, tables.turn(own):
            tables.append_labels(own, [label("p0-0").row])
            began.set()
            may_end.wait(30)

    def second() -> None:
        with shipper.connect(url) as own:
            put(own, label("p1-0"))

    writers = [threading.Thread(target=first), threading.Thread(target=second)]
    writers[0].start()
    began.wait(30)
    writers[1].start()
    for _ in range(5):
        catch_up(connection)
    assert quality.counts(connection, USE, START).labels == 1
    may_end.set()
    for one in writers:
        one.join(30)
    catch_up(connection)
    assert only(connection).labelled == 2
