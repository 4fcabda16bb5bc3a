"""Old days of the log end; what they came to stays."""

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.errors import BadSettings
from pipelines.predictions import label_clock, lookup, quality, retention, shipper
from tests.contract.test_quality import START, USE, fresh, label, put, record

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
DAYS = 10
NOW = START + DAYS * DAY


@pytest.fixture
def url(postgres):
    return fresh(postgres, "head")


@pytest.fixture
def connection(url):
    """Eleven days of three requests each; the first of each day is labelled."""
    with shipper.connect(url) as opened:
        rows = [record(name(day, n), START + day * DAY + n * MINUTE) for day in range(DAYS + 1) for n in range(3)]
        told = [label(name(day, 0), 1.0, START + day * DAY + MINUTE) for day in range(DAYS + 1)]
        put(opened, *rows, *told)
        yield opened


def name(day, n):
    return f"{(int(START.timestamp()) // 86_400) + day}-r{n}-0"


def catch_up(connection, use_case=USE):
    return label_clock.catch_up(connection, lambda _: use_case)


def days_of(connection, table="predictions"):
    counted = connection.execute(f"select count(distinct date_trunc('day', requested_at)) from {table}")
    return counted.fetchone()[0]


def law(connection):
    (version,) = quality.counts(connection, USE, NOW).versions
    assert version.recorded == version.labelled + version.pending + version.expired
    return version


def test_days_that_are_over_go_and_what_they_came_to_stays(connection):
    catch_up(connection)
    before = law(connection), quality.quality(connection, USE, NOW, "ever")
    assert len(retention.keep(connection, 7, NOW)) == 3
    assert (days_of(connection), days_of(connection, "outcomes")) == (8, 8)
    assert (law(connection), quality.quality(connection, USE, NOW, "ever")) == before
    assert lookup.find(connection, name(0, 0), ["calories"]) == ()
    assert lookup.find(connection, name(9, 0), ["calories"])[0].label is not None
    assert retention.dropped_before(connection) == datetime(2026, 3, 4, tzinfo=UTC)


def test_the_second_time_there_is_nothing_to_drop(connection):
    catch_up(connection)
    assert retention.keep(connection, 7, NOW)
    assert retention.keep(connection, 7, NOW) == []


def test_a_day_that_the_label_clock_has_not_seen_stays(connection):
    assert retention.keep(connection, 7, NOW) == []
    assert days_of(connection) == DAYS + 1
    catch_up(connection)
    assert len(retention.keep(connection, 7, NOW)) == 3


def test_a_label_that_comes_after_its_prediction_was_dropped_is_of_an_unknown_id(connection):
    catch_up(connection)
    retention.keep(connection, 7, NOW)
    before = law(connection)
    put(connection, label(name(0, 1), 2.0, NOW))
    catch_up(connection)
    assert law(connection) == before
    assert quality.counts(connection, USE, NOW).orphans == 1


def test_another_definition_counts_what_is_there_and_keeps_the_counts_of_what_is_gone(connection):
    catch_up(connection, USE.model_copy(update={"slices": (), "metrics": {"rmse": USE.metrics["rmse"]}}))
    before = law(connection)
    retention.keep(connection, 7, NOW)
    catch_up(connection)
    after = law(connection)
    assert (after.recorded, after.labelled, after.late) == (before.recorded, before.labelled, before.late)
    assert after.scored == 8, "of the dropped days no loss can be counted anew"
    everything = next(each for each in quality.quality(connection, USE, NOW, "ever") if each.slice == "all")
    assert (everything.recorded, everything.metrics["rmse"].n) == (33, 8)


def test_a_reader_that_does_not_end_keeps_the_days_until_the_next_time(connection, url):
    catch_up(connection)
    with shipper.connect(url) as reader, reader.transaction():
        reader.execute("select count(*) from predictions")
        assert retention.keep(connection, 7, NOW) == []
    assert days_of(connection) == DAYS + 1
    assert len(retention.keep(connection, 7, NOW)) == 3


def test_short_times_are_forgotten_when_no_window_reaches_them(connection):
    catch_up(connection)
    whole = law(connection)
    later = NOW + 60 * DAY
    retention.keep(connection, 7, later)
    levels = connection.execute("select distinct minutes from cells order by 1").fetchall()
    assert levels == [(0,), (1440,)]
    (version,) = quality.counts(connection, USE, later).versions
    assert (version.recorded, version.labelled) == (whole.recorded, whole.labelled)
    assert version.pending == 0


def test_a_retention_within_which_labels_may_still_come_is_refused():
    slow = USE.model_copy(update={"name": "slow", "horizon": 40 * DAY})
    assert retention.checked(41, [USE, slow]) == 41
    assert retention.checked(None, [slow]) is None
    with pytest.raises(BadSettings, match="TOUCHLINE_RETENTION_DAYS: 40 days are not longer than slow"):
        retention.checked(40, [USE, slow])
