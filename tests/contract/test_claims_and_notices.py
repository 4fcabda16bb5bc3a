"""Which labels asked for a training, what people were told: PostgreSQL and the fakes keep the same contract."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pipelines import migrations
from pipelines.adapters.postgres_book import PostgresClaims, PostgresNotices
from pipelines.fakes import MemoryClaims, MemoryNotices
from pipelines.predictions import tables
from pipelines.tools import Notice

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOTICE = Notice(key="retrain_c failed run 1", severity="failure", title="retrain_c failed", body="look")


def at(minutes):
    return T0 + timedelta(minutes=minutes)


@pytest.fixture(scope="module")
def url(postgres):
    migrations.upgrade(postgres.url("touchline"))
    return postgres.url("touchline")


@pytest.fixture(params=["postgres", "memory"])
def claims(request):
    """Claims, and a way to let a joined label of a thing come."""
    if request.param == "memory":
        memory = MemoryClaims()

        def come(thing, minutes):
            memory.labelled.setdefault("c", {})[thing] = at(minutes)

        return memory, come
    url = request.getfixturevalue("url")
    with psycopg.connect(url) as connection:
        connection.execute("truncate labels, label_claims")

    def come(thing, minutes):
        row = ("c", thing, None, None, 1.0, at(minutes), at(minutes), "api")
        with psycopg.connect(url) as connection, tables.turn(connection):
            tables.append_labels(connection, [row])
            connection.execute("update labels set joined = true")

    return PostgresClaims(url), come


def test_things_labelled_since_the_training_are_counted_once_each_and_claimed_when_enough(claims):
    book, come = claims
    for minutes in (-5, 1, 2):
        come(f"p{minutes}", minutes)
    come("p2", 3)
    assert book.claim("c", T0, at(5), enough=3) == 2
    come("p4", 4)
    assert book.claim("c", T0, at(6), enough=3) == 3
    assert book.claim("c", T0, at(6), enough=3) == 3, "a repeated task says the same"
    assert book.claim("c", T0, at(7), enough=3) == 0
    come("p8", 8)
    assert book.claim("c", T0, at(9), enough=1) == 1
    assert book.claim("d", T0, at(9), enough=1) == 0


def test_what_comes_after_the_run_was_due_is_left_for_the_next(claims):
    book, come = claims
    come("late", 10)
    assert book.claim("c", T0, at(5), enough=1) == 0
    assert book.claim("c", T0, at(15), enough=1) == 1


@pytest.fixture(params=["postgres", "memory"])
def notices(request):
    if request.param == "memory":
        return MemoryNotices()
    url = request.getfixturevalue("url")
    with psycopg.connect(url) as connection:
        connection.execute("truncate notices")
    return PostgresNotices(url)


def test_a_cause_is_told_once_by_its_key(notices):
    assert notices.untold(NOTICE.key)
    notices.told(NOTICE, T0)
    notices.told(NOTICE, at(1))
    assert not notices.untold(NOTICE.key)
    assert notices.untold("another cause")
