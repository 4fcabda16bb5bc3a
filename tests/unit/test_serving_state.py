"""The pure part of the reconciler: every order of events ends where the wish says."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.rollout.decision import decide
from pipelines.rollout.reconciler import settled
from pipelines.rollout.serving import DRAIN, START_LIMIT, Change, Seen, Serving
from pipelines.spec import RolloutPlan, Shadow

T0 = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = RolloutPlan(shadow=Shadow(share=0), stages=(), cap=100, watch=timedelta(0))
"""All requests, as soon as its places are ready."""
BENTOS = {"1": "calories:v1", "2": "calories:v2"}


class Played:
    """A registry, processes and a clock, all in memory, driven by `decide`."""

    def __init__(self, replicas=2):
        self.serving, self.replicas = Serving(use_case="calories"), replicas
        self.champion, self.asked, self.now, self.broken = None, None, T0, set()
        self.challenger = None
        self.told, self.served = [], []

    def seen(self):
        used = {place.port for place in self.serving.places}
        ready = frozenset(p.line for p in self.serving.places if p.version not in self.broken)
        ports = tuple(port for port in range(100, 106) if port not in used)
        return Seen(
            self.now, self.champion, self.asked, BENTOS, ready, ports, self.replicas, AT_ONCE, timedelta(0),
            self.challenger,
        )  # fmt: skip

    def tick(self, kill_before_alias=False):
        if self.serving.alias_due and not kill_before_alias:
            if self.champion == self.serving.alias_from:
                self.champion = self.serving.version
            self.serving = self.serving.model_copy(update={"alias_due": False})
        if self.serving.challenger_due and self.challenger == self.serving.challenger_from:
            self.challenger = self.serving.challenger
            self.serving = self.serving.model_copy(update={"challenger_due": False})
        change = decide(self.serving, self.seen())
        if change:
            if change.serving.version != self.serving.version or (
                change.serving.rollout and not self.serving.rollout
            ):
                self.asked = None
            self.serving = change.serving
            self.told.append(change.why)
            if change.refused == self.asked:
                self.asked = None
        self.served.append({place.version for place in self.serving.of("stable")})
        self.now += timedelta(seconds=1)
        return change

    def settle(self, ticks=40):
        for _ in range(ticks):
            self.tick()
        return self


def test_the_first_version_that_was_asked_for_serves_on_all_replicas_and_gets_the_alias():
    played = Played()
    played.asked = "1"
    played.settle()
    assert (played.champion, played.serving.version) == ("1", "1")
    assert len(played.serving.of("stable", "1")) == 2


def test_a_swap_never_leaves_clients_without_a_stable_place():
    played = Played()
    played.asked = "1"
    played.settle()
    start = len(played.served)
    played.asked = "2"
    played.settle()
    assert all(played.served[start:])
    assert (played.champion, [p.version for p in played.serving.places]) == ("2", ["2", "2"])


def test_an_alias_moved_by_hand_to_a_checked_version_is_followed():
    played = Played()
    played.asked = "1"
    played.settle()
    played.champion = "2"
    played.settle()
    assert played.serving.version == "2"


def test_an_alias_moved_by_hand_to_an_unchecked_version_is_moved_back_and_said():
    played = Played()
    played.asked = "1"
    played.settle()
    played.champion = "7"
    played.settle()
    assert (played.champion, played.serving.version) == ("1", "1")
    assert any("version 7, which has not passed gate and check; moved back to version 1" in x for x in played.told)


def test_an_alias_removed_by_hand_is_set_back():
    played = Played()
    played.asked = "1"
    played.settle()
    played.champion = None
    played.settle()
    assert played.champion == "1"


def test_a_version_that_never_gets_ready_is_given_up_and_the_old_one_goes_on():
    played = Played()
    played.asked = "1"
    played.settle()
    played.broken = {"2"}
    played.champion = "2"
    played.settle(int(START_LIMIT.total_seconds()) + 20)
    assert (played.champion, played.serving.version) == ("1", "1")
    assert any("version 2 was not ready" in told for told in played.told)


def test_places_that_left_are_kept_until_they_have_answered_what_they_were_asked():
    played = Played()
    played.asked = "1"
    played.settle()
    played.champion = "2"
    while played.serving.version != "2":
        played.tick()
    left = played.now
    while played.serving.of("leaving"):
        played.tick()
    assert played.now - left > DRAIN


def test_killed_between_record_and_alias_the_next_one_sets_the_alias():
    played = Played()
    played.asked = "1"
    for _ in range(10):
        played.tick(kill_before_alias=True)
    assert played.serving.alias_due
    played.settle()
    assert (played.champion, played.serving.version) == ("1", "1")


def test_an_alias_moved_by_hand_before_a_promotion_has_set_it_is_not_overwritten_unsaid():
    played = Played()
    played.asked = "1"
    played.settle()
    played.asked = "2"
    while played.serving.version != "2":
        played.tick()
    played.champion = "7"
    played.settle()
    assert (played.champion, played.serving.version) == ("2", "2")
    assert any("moved by hand to version 7" in told for told in played.told)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask 1", "ask 2", "hand 1", "hand 2", "hand 7", "remove", "nothing"]),
        st.integers(0, 12),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=200)
@given(EVENTS, st.integers(1, 3))
def test_whatever_happens_a_version_that_serves_is_checked_and_in_the_end_alias_and_places_agree(events, replicas):
    played = Played(replicas)
    for event, ticks, killed in events:
        word, _, version = event.partition(" ")
        if word == "ask":
            played.asked = version
        elif word == "hand":
            played.champion = version
        elif word == "remove":
            played.champion = None
        for _ in range(ticks):
            played.tick(kill_before_alias=killed)
            assert {p.version for p in played.serving.places} <= set(BENTOS)
            assert len({p.line for p in played.serving.places}) == len(played.serving.places)
            assert len({p.port for p in played.serving.places}) == len(played.serving.places)
            if played.serving.version:
                assert played.serving.of("stable", played.serving.version)
    played.settle(80)
    assert played.champion == played.serving.version
    assert decide(played.serving, played.seen()) is None
    expected = replicas if played.serving.version else 0
    assert [p.version for p in played.serving.places] == [played.serving.version] * expected


def asked_for(key, version, settled=None):
    return SimpleNamespace(training_key=key, version=version, promotion_asked_at=T0, promotion_settled=settled)


def test_a_switch_ends_every_open_request_and_a_refusal_only_its_own():
    old = Serving(use_case="calories", version="1")
    versions = [asked_for("k1", "1", "served"), asked_for("k2", "2"), asked_for("k3", "3")]
    switched = Change(old.model_copy(update={"version": "3"}), "version 3 serves in place of version 1")
    assert settled(old, switched, versions) == {"k2": "overtaken by version 3", "k3": "served"}
    refused = Change(old, "version 2 was not ready", refused="2")
    assert settled(old, refused, versions) == {"k2": "version 2 was not ready"}
    assert settled(old, Change(old, "starting 2 places of version 3"), versions) == {}
