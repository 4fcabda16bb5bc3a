"""Labels that tables tell: the real PostgreSQL and the shipped fake keep the same contract."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pipelines import migrations
from pipelines.adapters.postgres_labels import PostgresLabelBook
from pipelines.fakes import MemoryLabelBook
from pipelines.tools import EntityLabel

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ONE = EntityLabel(key="5", actual=1.5, event_time=T0 - timedelta(days=1), observed_at=T0, received_at=T0)
TWO = EntityLabel(key="6", actual=2.0, event_time=None, observed_at=T0, received_at=T0)


@pytest.fixture(scope="module")
def url(postgres):
    migrations.upgrade(postgres.url("touchline"))
    return postgres.url("touchline")


@pytest.fixture(params=["postgres", "memory"])
def opened(request):
    """A book, and what is kept in it: (source, key, actual, event time)."""
    if request.param == "memory":
        book = MemoryLabelBook()
        return book, lambda: [(f"table:{of[1]}", one.key, one.actual, one.event_time) for of, one in book.kept]
    url = request.getfixturevalue("url")
    with psycopg.connect(url) as connection:
        connection.execute("truncate labels, hand_overs")

    def kept():
        with psycopg.connect(url) as connection:
            words = "select source, entity_key, actual, event_time from labels order by seq"
            return connection.execute(words).fetchall()

    return PostgresLabelBook(url), kept


def test_labels_and_the_batch_that_told_them_are_kept_together_and_once(opened):
    book, kept = opened
    assert book.handed("c", "burnt") == 0
    for _ in range(2):
        book.hand("c", "burnt", 3, [ONE, TWO])
    book.hand("c", "burnt", 2, [ONE])
    assert book.handed("c", "burnt") == 3
    assert kept() == [("table:burnt", "5", 1.5, ONE.event_time), ("table:burnt", "6", 2.0, None)]


def test_a_batch_that_tells_nothing_is_remembered(opened):
    book, kept = opened
    book.hand("c", "burnt", 1, [])
    assert (book.handed("c", "burnt"), kept()) == (1, [])


def test_tables_and_use_cases_are_apart(opened):
    book, kept = opened
    book.hand("c", "burnt", 5, [ONE])
    book.hand("d", "burnt", 1, [TWO])
    assert (book.handed("c", "burnt"), book.handed("d", "burnt"), book.handed("c", "exercise")) == (5, 1, 0)
    assert len(kept()) == 2
