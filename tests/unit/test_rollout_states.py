"""The rollout's state machine: every state that can be reached, every event in it, and where it comes to rest."""

import sys
from collections import deque
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.rollout.decision import decide
from pipelines.rollout.evidence import Verdict
from pipelines.rollout.serving import DRAIN, START_LIMIT, Place, Seen, Serving
from pipelines.rollout.stages import Looked, Order
from pipelines.spec import RolloutPlan, Shadow, Stage

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BENTOS = {"1": "c:v1", "2": "c:v2", "3": "c:v3"}
REPLICAS = 2
HORIZON = timedelta(hours=2)
PLAN = RolloutPlan(
    shadow=Shadow(share=0.5, time=MINUTE, pairs=10),
    stages=(Stage(weight=5, time=MINUTE), Stage(weight=50, time=MINUTE, labels=10, approval=True)),
    cap=25,
    patience=timedelta(hours=5),
    watch=timedelta(minutes=30),
)
ANOTHER = PLAN.model_copy(update={"stages": (Stage(weight=10, time=MINUTE),), "newer": "replaces"})
WORDS = ("PROMOTE", "ROLLBACK", "HOLD")


def verdict(word, **more):
    return Verdict(verdict=word, why=f"because {word}", findings=(), **more)


class World:
    """A registry, processes and a clock, all in memory, driven by `decide` alone."""

    def __init__(self, plan=PLAN):
        place = {"version": "1", "tag": "c:v1", "role": "stable", "since": T0}
        places = tuple(Place(line=line, port=port, **place) for line, port in (("a", 100), ("b", 101)))
        self.serving = Serving(use_case="c", version="1", places=places)
        self.champion, self.challenger, self.asked, self.order = "1", None, None, None
        self.plan, self.now, self.word, self.more = plan, T0 + timedelta(days=1), None, {}
        self.dead, self.unwell, self.deleted, self.told = set(), set(), set(), []

    def copy(self):
        other = object.__new__(World)
        other.__dict__.update(self.__dict__)
        other.dead, other.unwell, other.deleted = set(self.dead), set(self.unwell), set(self.deleted)
        other.told = []
        return other

    def seen(self):
        rollout = self.serving.rollout
        looked = None
        if rollout and self.word:
            looked = Looked(rollout.began, rollout.since, verdict(self.word, **self.more))
        used = {place.port for place in self.serving.places}
        ready = frozenset(p.line for p in self.serving.places if p.version not in self.dead)
        unwell = frozenset(p.line for p in self.serving.places if p.version in self.unwell)
        return Seen(
            now=self.now, champion=self.champion, asked=self.asked, bentos=BENTOS, ready=ready,
            ports=tuple(port for port in range(100, 112) if port not in used), replicas=REPLICAS,
            plan=self.plan, horizon=HORIZON, challenger=self.challenger, unwell=unwell, order=self.order,
            looked=looked, champion_gone=self.serving.version in self.deleted,
        )  # fmt: skip

    def tick(self, after=timedelta(seconds=2), pointing=True):
        """What the reconciler does in a round: aliases that are due, then one change."""
        if pointing:
            self.point()
        change = decide(self.serving, self.seen())
        if change:
            before = self.serving
            self.serving = change.serving
            self.told.append(change.why)
            if change.order:
                self.order = None
            if change.refused == self.asked or (self.serving.rollout and not before.rollout):
                self.asked = None
            if self.serving.version == self.asked:
                self.asked = None
        self.now += after
        return change

    def point(self):
        told = self.serving
        if told.alias_due and self.champion == told.alias_from and told.version not in self.deleted:
            self.champion = told.version
        if told.challenger_due and self.challenger == told.challenger_from:
            self.challenger = told.challenger
        self.serving = told.model_copy(update={"alias_due": False, "challenger_due": False})

    def rest(self, ticks=60, after=timedelta(seconds=10)):
        for _ in range(ticks):
            self.tick(after)
        return self

    def until(self, stage, ticks=200, **how):
        for _ in range(ticks):
            if (self.serving.rollout.stage if self.serving.rollout else None) == stage:
                return self
            self.tick(**how)
        raise AssertionError(f"never in {stage}, but {self.serving.rollout}")

    def order_of(self, kind, version=None, stage=None):
        given = {"version": version, "stage": stage}
        self.order = Order(at=self.now, use_case="c", kind=kind, who="Jo", why="a test", **given)
        return self


def sound(world):
    """What must hold in every state."""
    serving, rollout = world.serving, world.serving.rollout
    lines, ports = [p.line for p in serving.places], [p.port for p in serving.places]
    assert len(set(lines)) == len(lines)
    assert len(set(ports)) == len(ports)
    assert {p.version for p in serving.places} <= set(BENTOS), "only what passed gate and check"
    assert {p.version for p in serving.of("stable")} == {serving.version}, "one champion, and it has places"
    canaries = serving.of("canary")
    assert {p.version for p in canaries} <= ({rollout.version} if rollout else set())
    if rollout is None:
        assert not serving.of("previous")
        return
    assert rollout.version != rollout.against
    if rollout.stage in {"shadow", "canary"} or 0 < rollout.percent < 100:
        assert canaries, "no weight and no shadow without a place"
    if rollout.stage == "watch":
        assert serving.version == rollout.version
        assert serving.of("previous", rollout.against), "the way back stays warm"
    else:
        assert serving.version == rollout.against
        assert not serving.of("previous")


def at_rest(world):
    """Everything has come to where the wish says."""
    serving = world.serving
    assert decide(serving, world.seen()) is None or serving.rollout is not None
    assert not serving.of("leaving")
    if serving.version not in world.deleted:
        assert world.champion == serving.version
    if serving.rollout is None:
        assert len(serving.of("stable")) == REPLICAS
        assert world.challenger is None
    elif serving.rollout.stage != "watch":
        assert world.challenger == serving.rollout.version


def events():
    """By name: what may happen between two rounds."""
    found = {"nothing": lambda world: None}
    for word in WORDS:
        found[f"verdict {word}"] = lambda world, word=word: setattr(world, "word", word)
    for version in ("1", "2", "3", "7", None):
        found[f"champion on {version}"] = lambda world, version=version: setattr(world, "champion", version)
        found[f"challenger on {version}"] = lambda world, version=version: setattr(world, "challenger", version)
    for version in ("2", "3"):
        found[f"a flow asks for {version}"] = lambda world, version=version: setattr(world, "asked", version)
        found[f"start {version}"] = lambda world, version=version: world.order_of("start", version)
        found[f"{version} deleted"] = lambda world, version=version: delete(world, version)
    for kind in ("hold", "resume", "promote", "abort", "rollback", "approve"):
        found[kind] = lambda world, kind=kind: world.order_of(kind)
    found["an order for another version"] = lambda world: world.order_of("promote", "9")
    found["the challenger dies"] = lambda world: world.dead.update({"2", "3"} - {world.serving.version})
    found["it stays away"] = lambda world: (world.dead.update({"2", "3"}), world.unwell.update({"2", "3"}))
    found["it comes back"] = lambda world: (world.dead.clear(), world.unwell.clear())
    found["a plan of other stages"] = lambda world: setattr(world, "plan", ANOTHER)
    for name, length in (("a minute", MINUTE), ("the horizon", HORIZON), ("the patience", PLAN.patience + MINUTE)):
        found[f"{name} passes"] = lambda world, length=length: setattr(world, "now", world.now + length)
    found["the start takes too long"] = lambda world: setattr(world, "now", world.now + START_LIMIT + MINUTE)
    return found


def delete(world, version):
    """As MLflow does: its aliases go with it."""
    world.deleted.add(version)
    world.champion = None if world.champion == version else world.champion
    world.challenger = None if world.challenger == version else world.challenger


def name_of(world):
    """The state as the machine distinguishes it; times only by what they are compared with."""
    serving, rollout, seen = world.serving, world.serving.rollout, world.seen()
    ages = None
    if rollout:
        lasted, exposed = world.now - rollout.since, rollout.exposed_since and world.now - rollout.exposed_since
        ages = (
            lasted >= rollout.least_time, lasted > rollout.plan.patience, lasted >= HORIZON,
            exposed and exposed >= HORIZON,
        )  # fmt: skip
    roles = tuple(sorted((p.role, p.version, p.line in seen.ready, p.line in seen.unwell) for p in serving.places))
    late = tuple(sorted((p.role, world.now - p.since > START_LIMIT) for p in serving.of("coming")))
    drained = tuple(world.now - p.since > DRAIN for p in serving.of("leaving"))
    return (
        serving.version, serving.alias_due, serving.challenger_due, serving.alias_lost, roles, late, drained, ages,
        rollout and (rollout.version, rollout.stage, rollout.step, bool(rollout.held), rollout.asks),
        rollout and rollout.approved, world.champion, world.challenger, world.asked, world.word,
        world.plan is PLAN, frozenset(world.deleted),
    )  # fmt: skip


def the_good_way():
    """The states that a good challenger goes through, round by round."""
    world = World()
    world.asked, world.word = "2", "PROMOTE"
    for _ in range(60):
        yield world.copy()
        if world.serving.rollout and world.serving.rollout.asks:
            world.order_of("approve")
        if world.serving.rollout and world.serving.rollout.stage == "canary" and world.serving.rollout.step == 0:
            world.now += HORIZON
        world.tick(timedelta(seconds=20))
    world.now += HORIZON
    world.rest(8)
    yield world.copy()


def explored(most_events):
    """Every state of the good way, and what so many events make of each: states by name, transitions."""
    states, transitions, waiting, tried = {}, set(), deque(), events()
    for world in the_good_way():
        if states.setdefault(name_of(world), world) is world:
            waiting.append((world, most_events))
    while waiting:
        world, left = waiting.popleft()
        here, due = name_of(world), world.serving.alias_due or world.serving.challenger_due
        for event, happen in tried.items():
            for pointing in (True, False) if due else (True,):
                then = world.copy()
                happen(then)
                then.tick(pointing=pointing)
                sound(then)
                there = name_of(then)
                transitions.add((here, event, there))
                if states.setdefault(there, then) is then and left > 1:
                    waiting.append((then, left - 1))
    return states, transitions


def test_in_no_state_that_can_be_reached_there_are_two_champions_or_a_weight_without_a_place(capsys):
    states, transitions = explored(3)
    rollouts = [world.serving.rollout for world in states.values() if world.serving.rollout]
    assert {(each.stage, each.step) for each in rollouts} == {
        ("prepared", 0), ("shadow", 0), ("canary", 0), ("canary", 1), ("full", 0), ("watch", 0),
    }  # fmt: skip
    stage = {
        name: world.serving.rollout.stage if world.serving.rollout else "none" for name, world in states.items()
    }
    kinds = {(stage[here], event, stage[there]) for here, event, there in transitions}
    with capsys.disabled():
        told = f"{len(states):,} states, {len(transitions):,} transitions, {len(kinds)} of them by stage and event"
        sys.stdout.write(f"\nrollout: {told}\n")


def test_from_every_state_it_comes_to_rest_where_the_wish_says():
    states, _ = explored(1)
    for world in states.values():
        world.word, world.order = "HOLD", None
        world.dead.clear(), world.unwell.clear()
        at_rest(world.rest())


def test_a_good_challenger_becomes_champion_by_its_plan_and_keeps_the_way_back_warm_until_the_horizon():
    world = World()
    world.asked, world.word = "2", "PROMOTE"
    world.until("canary")
    assert (world.champion, world.challenger) == ("1", "2")
    assert world.serving.rollout.percent == 5
    world.rest(60)
    assert world.serving.rollout.percent == 5, "the cap holds until the horizon has passed"
    world.now += HORIZON
    world.rest(2)
    assert world.serving.rollout.asks == "an approval of canary 50 %"
    world.order_of("approve").until("watch", after=timedelta(seconds=10))
    assert len(world.serving.of("previous", "1")) == REPLICAS
    world.rest(2)
    assert (world.champion, world.challenger, world.serving.rollout.stage) == ("2", None, "watch")
    world.now += HORIZON
    world.rest()
    assert {(p.version, p.role) for p in world.serving.places} == {("2", "stable")}


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_bad_news_before_the_switch_takes_the_challenger_away_also_while_it_is_held(stage):
    world = World()
    world.asked, world.word = "2", "PROMOTE"
    world.until(stage)
    world.word = "HOLD"
    world.order_of("hold").tick()
    world.word = "ROLLBACK"
    world.rest()
    assert (world.serving.version, world.serving.rollout, world.champion, world.challenger) == (
        "1",
        None,
        "1",
        None,
    )
    assert any(f"rolled back in {stage}" in told for told in world.told)


def in_watch():
    world = World()
    world.asked = "2"
    world.tick()
    return world.order_of("promote").until("watch")


def test_bad_news_in_the_watch_brings_the_previous_champion_back_without_starting_a_place():
    world = in_watch()
    ports = {p.port for p in world.serving.of("previous")}
    world.word = "ROLLBACK"
    world.tick()
    world.tick()
    assert world.serving.version == "1"
    assert {p.port for p in world.serving.of("stable")} == ports
    world.rest()
    assert world.champion == "1"


def test_a_dead_way_back_is_waited_for_and_not_taken():
    world = in_watch()
    world.word = "ROLLBACK"
    world.dead.add("1")
    world.rest(5)
    assert world.serving.version == "2"
    world.dead.clear()
    world.rest(5)
    assert world.serving.version == "1"


def test_a_verdict_on_an_earlier_stage_decides_nothing():
    world = World()
    world.asked = "2"
    world.until("shadow")
    old = world.serving.rollout
    seen = world.seen()._replace(looked=Looked(old.began, old.since - MINUTE, verdict("ROLLBACK")))
    assert decide(world.serving, seen) is None


def test_a_newer_challenger_waits_or_replaces_as_the_plan_says():
    world = World()
    world.asked = "2"
    world.until("shadow")
    world.asked = "3"
    world.rest(5)
    assert world.serving.rollout.version == "2"
    world.plan = PLAN.model_copy(update={"newer": "replaces"})
    world.rest(5)
    assert world.serving.rollout.version == "3"


def test_an_equal_challenger_is_given_up_when_the_plan_wants_a_better_one():
    stages = (Stage(weight=50, time=MINUTE, labels=10),)
    world = World(RolloutPlan(stages=stages, cap=100, no_difference="rollback", shadow=PLAN.shadow))
    world.asked, world.word = "2", "PROMOTE"
    world.until("canary")
    world.rest(30)
    assert world.serving.rollout.stage == "canary", "not better, not the same: it waits"
    world.more = {"same": True}
    world.rest()
    assert world.serving.rollout is None
    assert any("no difference to version 1" in told for told in world.told)


@pytest.mark.parametrize("undecided", ["hold", "rollback"])
def test_a_stage_that_stays_undecided_ends_as_the_plan_says(undecided):
    world = World(PLAN.model_copy(update={"undecided": undecided}))
    world.asked, world.word = "2", "HOLD"
    world.until("shadow")
    world.now += PLAN.patience + MINUTE
    world.rest(3)
    rollout = world.serving.rollout
    assert (rollout and rollout.held is not None) == (True if undecided == "hold" else None)


def test_orders_that_do_not_fit_are_refused_with_the_reason():
    world = World()
    for kind, version in (("promote", None), ("start", "7"), ("start", "1")):
        world.order_of(kind, version).tick()
    world.order_of("start", "2").tick()
    for kind, version in (("start", "3"), ("resume", None), ("approve", None), ("abort", "3")):
        world.order_of(kind, version).tick()
    refused = [told for told in world.told if "refused" in told]
    assert len(refused) == 7
    assert "promote refused: no rollout is under way" in refused[0]
    assert "start refused: version 2 is under way: abort it first" in refused[3]


def test_an_answer_about_a_stage_that_nobody_waits_for_any_more_neither_approves_nor_ends_another_one():
    world = World()
    world.asked, world.word = "2", "PROMOTE"
    world.until("canary")
    world.now += HORIZON
    world.rest(2)
    asked = world.serving.rollout
    assert asked.asks == "an approval of canary 50 %"
    for kind in ("approve", "abort"):
        world.order_of(kind, "2", "canary 5 %").tick()
        assert f"{kind} refused: nobody waits for an approval of canary 5 % any more" in world.told[-1]
        assert world.serving.rollout == asked
    world.order_of("approve", "2", "canary 50 %").tick()
    assert world.serving.rollout.approved


def test_an_order_that_comes_with_the_request_waits_until_the_rollout_has_begun():
    world = World()
    world.asked, world.word = "2", "HOLD"
    world.order_of("promote").tick()
    assert world.serving.rollout.version == "2"
    assert world.order is not None, "not refused, and not lost"
    world.until("watch")
    assert (world.order, world.serving.version) == (None, "2")


def test_a_rollout_that_does_not_fit_is_refused_and_its_request_closed():
    world = World()
    seen = world.seen()._replace(asked="2", ports=(109,))
    change = decide(world.serving, seen)
    assert (change.kind, change.refused) == ("refused", "2")
    assert "fewer TOUCHLINE_REPLICAS make room" in change.why


def test_a_champion_that_was_deleted_from_the_registry_serves_on_and_it_is_said_once():
    world = World()
    delete(world, "1")
    world.rest(5)
    assert world.serving.version == "1"
    assert sum("deleted from the registry" in told for told in world.told) == 1
