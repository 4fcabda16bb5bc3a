"""The record of candidates and what serves: the real PostgreSQL and the shipped fake keep the same contract."""

import threading
from datetime import UTC, datetime

import psycopg
import pytest

from pipelines import migrations
from pipelines.adapters.postgres_book import PostgresBook, PostgresLocks, connected, kept
from pipelines.errors import Busy, ServiceAway
from pipelines.fakes import MemoryEvidence, MemoryLocks
from pipelines.records import CheckVerdict, CleanSnapshot, GateVerdict
from pipelines.rollout.serving import Place, Serving
from pipelines.tools import Event, Evidence

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SNAPSHOT = CleanSnapshot(use_case="c", as_of=T0, versions={"a": 1}, rows={"a": 2}, suites={"a": "s"}, digest="d")
GATE = GateVerdict(
    passed=True, reason="r", metric="rmse", candidate=1.0, champion=None, champion_version=None,
    difference=None, rows=3,
)  # fmt: skip
CHECK = CheckVerdict(passed=True, reason="r", rows=3, largest_difference=0.0)


def evidence(key, run="run1"):
    return Evidence(
        training_key=key, use_case="c", run_id=run, snapshot=SNAPSHOT, code_digest="x", git_commit=None,
        lock_digest="l", seed=0, metrics={"rmse": 1.0}, created_at=T0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def url(postgres):
    migrations.upgrade(postgres.url("touchline"))
    migrations.upgrade(postgres.url("touchline"))
    return postgres.url("touchline")


@pytest.fixture(params=["postgres", "memory"])
def book(request):
    if request.param == "memory":
        return MemoryEvidence()
    url = request.getfixturevalue("url")
    with psycopg.connect(url) as connection:
        connection.execute("truncate candidates, serving, events")
    return PostgresBook(url)


def test_of_two_runs_with_one_key_the_first_stays_and_both_get_it(book):
    assert book.add(evidence("k", "run1")).run_id == "run1"
    assert book.add(evidence("k", "run2")).run_id == "run1"


def test_what_is_amended_is_read_again_and_the_rest_stays(book):
    book.add(evidence("k"))
    book.amend("k", gate=GATE)
    book.amend("k", version="3", check=CHECK, promotion_asked_at=T0)
    found = book.by_key("k")
    assert found == book.by_version("c", "3")
    assert (found.gate, found.check, found.promotion_asked_at, found.bento_tag) == (GATE, CHECK, T0, None)
    assert not found.may_serve
    assert book.amend("k", bento_tag="c:v3").may_serve


def test_what_is_not_there_is_none(book):
    assert book.by_key("nothing") is None
    assert book.by_version("c", "9") is None
    with pytest.raises(KeyError):
        book.amend("nothing", version="1")


@pytest.fixture(params=["postgres", "memory"])
def locks(request):
    return MemoryLocks() if request.param == "memory" else PostgresLocks(request.getfixturevalue("url"), 0.5)


def test_a_lock_is_held_by_one_and_free_again_after_an_error(locks):
    with pytest.raises(RuntimeError), locks.hold("step"):
        with locks.hold("another"):
            pass
        refused = []

        def second():
            try:
                with locks.hold("step"):
                    pass
            except Busy as busy:
                refused.append(str(busy))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert "another run holds it" in refused[0]
        raise RuntimeError
    with locks.hold("step"):
        pass


def test_a_state_is_recorded_with_its_event_and_an_older_generation_is_refused(url):
    book = PostgresBook(url)
    place = Place(line="a", port=1, version="1", tag="c:v1", role="stable", since=T0)
    state = Serving(use_case="c", generation=2, version="1", places=(place,))
    book.record(state, (Event(at=T0, use_case="c", kind="serving", message="version 1 serves"),))
    assert book.serving("c") == state
    assert book.serving("other") == Serving(use_case="other")
    assert [event.message for event in book.events("c")] == ["version 1 serves"]
    book.add(evidence("k"))
    book.record(state, settled={"k": "served"})
    assert book.by_key("k").promotion_settled == "served"
    with pytest.raises(Busy, match="overtaken"):
        book.record(state.model_copy(update={"generation": 1}))
    assert book.all_serving() == [state]


def test_a_database_that_is_away_is_a_passing_error():
    with pytest.raises(ServiceAway, match="PostgreSQL does not answer"):
        PostgresBook("postgresql://touchline:x@127.0.0.1:1/touchline").by_key("k")


# --- one connection for many transactions -------------------------------------------------------------------


def backend(url):
    with connected(url) as connection:
        return connection.info.backend_pid


def test_inside_kept_every_transaction_of_the_thread_is_on_one_connection_and_outside_each_has_its_own(url):
    elsewhere = []
    with kept(url):
        inside = {backend(url) for _ in range(3)}
        other = threading.Thread(target=lambda: elsewhere.append(backend(url)))
        other.start()
        other.join()
    assert len(inside) == 1
    assert len(inside | set(elsewhere) | {backend(url)}) == 3


def test_what_fails_inside_kept_is_undone_alone_and_the_connection_goes_on(url):
    book = PostgresBook(url)
    with kept(url):
        book.record(Serving(use_case="kept", generation=2))
        with pytest.raises(Busy):
            book.record(
                Serving(use_case="kept", generation=1), (Event(at=T0, use_case="kept", kind="k", message="m"),)
            )
        assert book.events("kept") == []
        assert book.serving("kept").generation == 2


def test_a_kept_connection_that_is_lost_is_told_as_away_and_the_next_one_works(url, postgres):
    with pytest.raises(ServiceAway), kept(url):
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
            server.execute("select pg_terminate_backend(%s)", (backend(url),))
        PostgresBook(url).all_serving()
    with kept(url):
        assert PostgresBook(url).serving("nobody") == Serving(use_case="nobody")
