"""Each law fails on a broken world, and holds in a sound one: a check that cannot fail proves nothing."""

import pytest

from pipelines.machine.keeper import Seen
from pipelines.records import Ledger
from tests.chaos import laws
from tests.chaos.laws import Log, Published, Releases, Requests, Rows, Wish
from tests.chaos.live import own

SENT = {("a.csv", 1): (1.0, "x"), ("a.csv", 2): (2.0, "y"), ("a.csv", 3): (3.0, "z"), ("b.csv", 1): (1.0, "x2")}
FIRST = Published(("a.csv", 1), (1.0,), 1, (1.0, "x"))
SECOND = Published(("b.csv", 1), (1.0,), 2, (1.0, "x2"))
ASIDE = [("quarantined", ("a.csv", 2)), ("duplicate", ("a.csv", 3))]
BALANCED = Ledger(table="t", arrived=4, published=1, revised=1, quarantined=1, duplicate=1)
SOUND = Rows("t", BALANCED, SENT, [FIRST, SECOND], ASIDE)
UNBALANCED = Ledger(table="t", arrived=5, published=1, revised=1, quarantined=1, duplicate=1)


def test_rows_that_are_all_in_one_place_are_conserved():
    assert laws.rows_are_conserved(SOUND) is None
    assert laws.rows_have_one_order(SOUND) is None


def test_a_row_that_left_the_quarantine_counts_where_it_is_now():
    released = Published(("a.csv", 2), (2.0,), 1, (2.0, "y"))
    rows = SOUND._replace(published=[FIRST, SECOND, released], aside=[*ASIDE, ("released", ("a.csv", 2))])
    assert laws.rows_are_conserved(rows) is None
    given_up = SOUND._replace(aside=[*ASIDE, ("discarded", ("a.csv", 2))])
    assert laws.rows_are_conserved(given_up) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ledger": UNBALANCED}, "does not add up"),
        ({"published": [SECOND]}, r"1 rows lost or doubled: a.csv:1 is there 0 times"),
        ({"published": [FIRST, FIRST, SECOND]}, "a.csv:1 is there 2 times"),
        ({"aside": [*ASIDE, ASIDE[0]]}, "a.csv:2 is there 2 times"),
        ({"aside": ASIDE[:1]}, "a.csv:3 is there 0 times"),
        ({"published": [FIRST, SECOND, FIRST._replace(place=("c.csv", 9))]}, "c.csv:9 is there 1 times"),
        ({"published": [FIRST._replace(cells=(1.0, "other")), SECOND]}, "1 rows hold what was not sent"),
    ],
)
def test_a_lost_doubled_or_changed_row_breaks_the_law(change, told):
    found = laws.rows_are_conserved(SOUND._replace(**change))
    assert found is not None
    assert told in found


@pytest.mark.parametrize(
    ("published", "told"),
    [([FIRST, SECOND._replace(revision=1)], "have a revision twice"), ([SECOND], "lack a revision")],
)
def test_revisions_out_of_order_break_the_law(published, told):
    assert told in (laws.rows_have_one_order(SOUND._replace(published=published)) or "")


RELEASES = Releases(["k1", "k2"], [], ["k1", "k2"], ["r1"], frozenset({"1"}), "1")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"finished": ["k1", "k1", "k2"]}, "more than one run"),
        ({"candidates": ["k1", "k2", "k2"]}, "more than one candidate"),
        ({"versions": ["r1", "r1"]}, "more than one version"),
        ({"candidates": ["k1"]}, "a run and no candidate"),
        ({"unfinished": ["k3"]}, "1 runs were left open"),
    ],
)
def test_a_training_that_was_done_twice_or_left_open_breaks_the_law(change, told):
    found = laws.trainings_are_done_once(RELEASES._replace(**change))
    assert (found is None) if told is None else told in (found or "")


def test_an_untested_version_that_serves_breaks_the_law():
    assert laws.only_the_tested_serves(RELEASES) is None
    assert laws.only_the_tested_serves(RELEASES._replace(serving=None)) is None
    assert "version 2 serves" in (laws.only_the_tested_serves(RELEASES._replace(serving="2")) or "")


LOG = Log(["p", "q"], {"p": 3.0}, {"p": 1, "q": 1, "other": 1}, {"p": [3.0]}, {"1": (3, 1)}, {"1": (3, 1, 2, 0)})


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({"p": 1, "q": 1}, None),
        ({"p": 1}, "1 of 2 answered predictions are not in the log, as q"),
        ({"p": 1, "q": 2}, "1 predictions are in the log twice, as q"),
        ({"p": 1, "q": 1, "unasked": 2}, "1 predictions are in the log twice, as unasked"),
    ],
)
def test_an_answer_that_is_lost_or_doubled_breaks_the_law(recorded, told):
    assert laws.answers_are_logged_once(LOG._replace(recorded=recorded)) == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"outcomes": {}}, "the label 3.0 of p counts as []"),
        ({"outcomes": {"p": [3.0, 3.0]}}, "the label 3.0 of p counts as [3.0, 3.0]"),
        ({"outcomes": {"p": [4.0]}}, "the label 3.0 of p counts as [4.0]"),
        ({"counted": {"1": (3, 1, 1, 0)}}, "version 1: 3 is not 1 + 1 + 0"),
        ({"counted": {"1": (4, 2, 2, 0)}}, "version 1: 4 recorded and 2 labelled are told, (3, 1) are there"),
        ({"counted": {}}, "version 1: 0 recorded and 0 labelled are told, (3, 1) are there"),
    ],
)
def test_a_label_that_is_lost_or_counted_twice_breaks_the_law(change, told):
    assert laws.labels_count_once(LOG._replace(**change)) == told


WISH = Wish([], "2", "2", None, [("2", "stable", True)] * 2, 2)


def test_a_rollout_has_its_places_beside_those_that_serve():
    canary = [*WISH.places, ("3", "canary", True)]
    found = WISH._replace(rollout=("canary", "3", "2"), challenger="3", asked="4", places=canary)
    assert laws.the_wish_is_true(found) is None
    warm = [("1", "previous", True), *WISH.places, ("1", "previous", True)]
    assert laws.the_wish_is_true(WISH._replace(rollout=("watch", "2", "1"), places=warm)) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"away": ["shipper"]}, "away: shipper"),
        ({"asked": "3"}, "version 3 was asked for, 2 serves"),
        ({"champion": "1"}, "the champion is 1, 2 serves"),
        ({"places": [("2", "stable", True)]}, "places are [('2', 'stable', True)]"),
        ({"places": [("2", "stable", True), ("2", "stable", False)]}, "places are"),
        ({"places": [("1", "stable", True)] * 2}, "places are"),
        ({"rollout": ("shadow", "3", "2")}, "the challenger is None in stage shadow of version 3"),
        ({"rollout": ("canary", "3", "2"), "challenger": "3"}, "places are"),
        ({"rollout": ("full", "3", "2"), "challenger": "3"}, "the rollout of version 3 is on its way in full"),
        ({"rollout": ("watch", "2", "1")}, "places are"),
        ({"challenger": "3"}, "the challenger is 3 in stage none"),
    ],
)
def test_a_wish_that_is_not_true_breaks_the_law(change, told):
    found = laws.the_wish_is_true(WISH._replace(**change))
    assert (found is None) if told is None else (found or "").startswith(told)


REFUSALS = [
    "ConnectionRefusedError(111, 'Connection refused')",
    "RemoteDisconnected('Remote end closed connection without response')",
    '503 {"error":{"code":"log_full"}}',
    '503 {"error":{"code":"no_place"}}',
]


def test_a_typed_refusal_is_a_breach_only_where_an_answer_was_possible():
    assert laws.clients_do_not_pay(Requests([], outage=False)) is None
    for one in REFUSALS:
        assert laws.clients_do_not_pay(Requests([one], outage=True)) is None
        assert laws.clients_do_not_pay(Requests([one], outage=False)) is not None


@pytest.mark.parametrize(
    "told", ["500 {}", "503 <html>", '502 {"error":{"code":"lost"}}', "TimeoutError('timed out')"]
)
def test_any_other_failure_is_a_breach_even_in_an_outage(told):
    assert "1 requests failed" in (laws.clients_do_not_pay(Requests([told], outage=True)) or "")


def test_a_service_is_not_back_while_only_orphans_of_the_killed_one_are_there():
    scheduler, worker, task = Seen(11, 10, 11, 5), Seen(12, 11, 11, 6), Seen(13, 12, 11, 7)
    assert own(10, [scheduler, worker, task]) == scheduler
    orphan = worker._replace(parent=10)
    assert own(10, [orphan, task]) is None
    assert own(10, []) is None
