"""What the judge reads and the reconciler writes, in the real PostgreSQL; the replay against a real place."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import psycopg
import pytest

from pipelines import catalog, migrations
from pipelines.adapters.postgres_book import PostgresBook
from pipelines.adapters.postgres_rollouts import PostgresRollouts, write
from pipelines.predictions import arms, label_clock, replay, shipper, spool
from pipelines.predictions.arms import Compared, Losses
from pipelines.predictions.replay import Replayer
from pipelines.predictions.spool import FolderSpool, Header, Labels, Predictions
from pipelines.rollout.counting import Counted
from pipelines.rollout.decision import decide
from pipelines.rollout.evidence import Rates, Verdict
from pipelines.rollout.serving import Place, Seen, Serving
from pipelines.rollout.stages import Order
from pipelines.serving.contract import instant
from pipelines.spec import Calibrated
from pipelines.use_cases.calories import USE_CASE
from tests.places import make_bento, starting
from tests.releases import ROW, make_release

NUMBERS = count()
T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OF = Compared("calories", "2", "1", T0, T0)
HOLD = Verdict(verdict="HOLD", why="waits", findings=())


@pytest.fixture
def url(postgres):
    """An empty database of its own, with the platform's tables."""
    name = f"rollout{next(NUMBERS)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} owner touchline")
    own = postgres.url("touchline").rpartition("/")[0] + f"/{name}"
    migrations.upgrade(own)
    return own


class Log:
    """Spools of two versions, shipped and joined."""

    def __init__(self, connection, folder):
        self.connection, self.folder = connection, folder
        self.spools = {version: self._spool(version) for version in ("1", "2")}

    def _spool(self, version):
        who = ("calories", f"place{version}", version, f"digest-{version}")
        header = Header(*who, ("Age", "Gender"), ("calories",))
        return FolderSpool(self.folder / "calories" / f"place{version}", header)

    def answered(self, version, request, outputs, role="stable", at=T0 + SECOND, latency_us=500):
        n = len(outputs)
        none, ages = [None] * n, [[40.0, "male"][place] for place in (0, 1)]
        self.spools[version].append(
            Predictions(
                request, instant(at), latency_us, list(range(n)), none, ["k"] * n, none,
                [[ages[0]] * n, [ages[1]] * n], [list(map(float, outputs))], role=role,
            )
        )  # fmt: skip

    def labelled(self, prediction_id, actual, at=T0 + timedelta(minutes=1)):
        rows = [(prediction_id, None, None, float(actual), instant(at))]
        self.spools["1"].append(Labels(instant(at), "api", rows))

    def ship(self):
        shipper.ship(self.connection, self.folder)
        label_clock.catch_up(self.connection, lambda _: USE_CASE)
        return arms.newest(self.connection)


@pytest.fixture
def log(url, tmp_path):
    with shipper.connect(url) as connection:
        yield Log(connection, tmp_path / "spool")


def test_pairs_are_the_same_request_answered_by_both_and_losses_follow_its_label(log):
    random = np.random.default_rng(1)
    actual, champion, challenger = (random.normal(100, 10, 30) for _ in range(3))
    for n in range(30):
        log.answered("1", f"20513-{n}", [champion[n]])
        log.answered("2", f"20513-{n}", [challenger[n]], role=spool.SHADOW, at=T0 + 2 * SECOND)
        if n < 20:
            log.labelled(f"20513-{n}-0", actual[n])
    newest = log.ship()
    told = list(arms.answers(log.connection, OF, 0, newest))
    assert sorted(each.challenger["calories"] for each in told) == pytest.approx(sorted(challenger))
    assert sorted(each.champion["calories"] for each in told) == pytest.approx(sorted(champion))
    assert list(arms.answers(log.connection, OF, newest, newest)) == []
    c, s = np.square(challenger - actual)[:20], np.square(champion - actual)[:20]
    losses = arms.paired(log.connection, OF)
    assert losses == pytest.approx(Losses(20, c.sum(), s.sum(), (c * c).sum(), (s * s).sum(), (c * s).sum()))


def test_a_label_that_is_corrected_changes_the_pairs_and_one_asked_again_twice_counts_once(log):
    log.answered("1", "20513-x", [90.0])
    for after in (2, 3):
        log.answered("2", "20513-x", [95.0], role=spool.SHADOW, at=T0 + after * SECOND)
    log.labelled("20513-x-0", 100.0)
    log.ship()
    assert arms.paired(log.connection, OF)[:3] == (1, 25.0, 100.0)
    log.labelled("20513-x-0", 95.0, T0 + timedelta(minutes=2))
    log.ship()
    assert arms.paired(log.connection, OF)[:3] == (1, 0.0, 25.0)


def test_in_the_watch_the_previous_champion_is_the_shadow_and_each_still_has_its_side(log):
    log.answered("2", "20513-x", [95.0])
    log.answered("1", "20513-x", [90.0], role=spool.SHADOW, at=T0 + 2 * SECOND)
    log.labelled("20513-x-0", 100.0)
    newest = log.ship()
    assert arms.paired(log.connection, OF)[:3] == (1, 25.0, 100.0)
    told = next(arms.answers(log.connection, OF, 0, newest))
    assert (told.challenger["calories"], told.champion["calories"]) == (95.0, 90.0)


def test_latencies_are_of_clients_requests_by_arm_and_a_batch_is_one(log):
    log.answered("1", "20513-a", [1.0, 2.0, 3.0], latency_us=2000)
    log.answered("2", "20513-b", [1.0], role="canary", latency_us=4000)
    log.answered("2", "20513-a", [1.0, 2.0, 3.0], role=spool.SHADOW, latency_us=9000)
    log.answered("1", "20513-c", [1.0], at=T0 - SECOND)
    newest = log.ship()
    assert sorted(arms.latencies(log.connection, OF, 0, newest)) == [("canary", 4.0), ("stable", 2.0)]
    assert arms.before(log.connection, T0) < newest


def test_without_a_shadow_each_arm_has_the_losses_of_what_it_answered_itself_side_by_side(log):
    log.answered("1", "20513-a", [90.0])
    log.answered("2", "20513-b", [95.0], role="canary")
    log.answered("1", "20513-c", [0.0], at=T0 + timedelta(hours=1))
    for request in "abc":
        log.labelled(f"20513-{request}-0", 100.0)
    log.ship()
    split = arms.split(log.connection, OF, T0, T0 + timedelta(minutes=1))
    assert split == {"1": (1, 100.0, 10_000.0), "2": (1, 25.0, 625.0)}


def test_residuals_of_a_probability_are_what_happened_less_what_was_said(log):
    log.answered("2", "20513-b", [0.25], role="canary")
    log.labelled("20513-b-0", 3.0)
    log.ship()
    calibrated = {"calories": Calibrated(output="calories", event=lambda actual: actual > 1)}
    assert arms.residuals(log.connection, OF, calibrated) == {"calories": (1, 0.75, 0.5625)}


def test_what_is_asked_again_is_recent_and_the_clients_own_and_comes_to_an_end(log):
    for n in range(50):
        log.answered("1", f"20513-{n}", [1.0])
    log.answered("2", "20513-canary", [1.0], role="canary")
    log.answered("1", "20513-old", [1.0], at=T0 - timedelta(hours=1))
    newest = log.ship()
    all_of_it = USE_CASE.model_copy(
        update={"rollout": USE_CASE.rollout.model_copy(update={"shadow": USE_CASE.rollout.shadow.model_copy(
            update={"share": 1.0})})}
    )  # fmt: skip
    chosen = replay.choose(log.connection, all_of_it, "1", 0, newest, T0 + 2 * SECOND)
    assert {each.request_id for each in chosen.requests} == {f"20513-{n}" for n in range(50)}
    assert chosen.until == newest
    some = replay.choose(log.connection, USE_CASE, "1", 0, newest, T0 + 2 * SECOND)
    assert 0 < len(some.requests) < 50


def test_a_place_answers_what_is_asked_again_under_its_own_id_as_shadow(url, tmp_path):
    bento = make_bento(make_release(tmp_path / "release", trees=5), "2", tmp_path / "bentoml").path
    body = {**ROW, "event_time": T0.isoformat(), "User_ID": "77"}
    with starting(bento, tmp_path) as start, shipper.connect(url) as connection:
        place = start("c")
        replayer = Replayer(place.port, timedelta(seconds=5))
        assert replayer.ask([replay.Logged("20513-x", [body, {}, body])]) == 1
        replayer.close()
        shipper.ship(connection, tmp_path / "spool")
        rows = connection.execute("select prediction_id, shadow, role, entity_key from predictions").fetchall()
        assert sorted(rows) == [("20513-x-0", True, "shadow", "77"), ("20513-x-2", True, "shadow", "77")]
        place.kill()
        with closing(Replayer(place.port, timedelta(seconds=1))) as nobody:
            assert nobody.ask([replay.Logged("20513-y", [body])]) == 0


def test_a_line_that_has_ended_meanwhile_loses_no_request(tmp_path):
    """The same port answers again after a new start, as for the next version's place."""
    bento = make_bento(make_release(tmp_path / "release", trees=5), "2", tmp_path / "bentoml").path
    with starting(bento, tmp_path) as start:
        first = start("c")
        replayer = Replayer(first.port, timedelta(seconds=5))
        assert replayer.ask([replay.Logged("20513-x", [dict(ROW)])]) == 1
        replayer._line.sock.close()
        assert replayer.ask([replay.Logged("20513-y", [dict(ROW)]), replay.Logged("20513-z", [dict(ROW)])]) == 2
        replayer.close()


# --- history, orders, sums --------------------------------------------------------------------------------


def serving():
    places = tuple(
        Place(line=line, port=port, version="1", tag="t1", role="stable", since=T0)
        for line, port in (("a", 100), ("b", 101))
    )
    return Serving(use_case="calories", version="1", places=places)


def seen(now=T0, **told):
    given = {
        "now": now, "champion": "1", "asked": None, "bentos": {"1": "t1", "2": "t2"}, "ready": frozenset("abc"),
        "ports": (102, 103, 104), "replicas": 2, "plan": USE_CASE.rollout,
    }  # fmt: skip
    return Seen(**given | told)


def carried_out(url, state, world, now=T0):
    change = decide(state, world)
    PostgresBook(url).record(change.serving, also=lambda connection: write(connection, state, change, now))
    return change.serving


def test_orders_wait_in_their_order_are_settled_with_the_change_and_say_what_became_of_them(url):
    rollouts = PostgresRollouts(url)
    first = rollouts.order(Order(at=T0, use_case="calories", kind="start", version="2", who="Jo", why="a try"))
    second = rollouts.order(Order(at=T0, use_case="calories", kind="resume", who="Jo", why="on"))
    assert rollouts.waiting("calories").id == first
    assert rollouts.waiting("bets") is None
    state = carried_out(url, serving(), seen(order=rollouts.waiting("calories")))
    assert rollouts.settled(first) == "version 2 begins its rollout against version 1: a try"
    assert rollouts.waiting("calories").id == second
    carried_out(url, state, seen(order=rollouts.waiting("calories"), challenger="2"))
    assert "refused: nothing is held" in rollouts.settled(second)
    answer = Order(at=T0, use_case="calories", kind="approve", version="2", stage="full", who="Jo", why="yes")
    third = rollouts.order(answer)
    assert rollouts.waiting("calories") == answer.model_copy(update={"id": third})
    assert rollouts.settled(999) is None


def test_history_says_when_who_why_and_by_which_numbers_and_people_are_told_of_what_matters(url):
    rollouts = PostgresRollouts(url)
    order = Order(at=T0, use_case="calories", kind="start", version="2", who="Jo", why="a try")
    state = carried_out(url, serving(), seen(order=order))
    assert [each.version for each in rollouts.under_way()] == ["2"]
    order = Order(at=T0, use_case="calories", kind="abort", who="Jo", why="enough")
    carried_out(url, state, seen(order=order, challenger="2"), T0 + SECOND)
    told = rollouts.changes("calories", T0)
    assert [(each.stage_before, each.stage_after, each.kind, each.who) for each in told] == [
        (None, "prepared", "rollout", "Jo"), ("prepared", None, "rolled back", "Jo"),
    ]  # fmt: skip
    assert [each.kind for each in rollouts.notable(T0)] == ["rolled back"]
    assert rollouts.notable(T0 + timedelta(minutes=1)) == []
    (past,) = rollouts.past("calories")
    assert (past.outcome, past.ended_at, past.version, past.against) == ("rolled back", T0 + SECOND, "2", "1")
    assert rollouts.under_way() == []
    assert [each.version for each in rollouts.unpictured(timedelta(days=36500))] == ["2"]
    rollouts.pictured("calories", T0, T0 + SECOND)
    assert rollouts.unpictured(timedelta(days=36500)) == []


def test_sums_and_verdict_are_read_again_and_looks_are_kept_ever_more_sparsely(url):
    rollouts = PostgresRollouts(url)
    counted = Counted(seen=7, rates={"champion": Rates(requests=3)}, raw={"a": (3, 0)})
    assert rollouts.counted("calories", T0) is None
    for second in range(1, 301):
        rollouts.look(OF, counted, HOLD, "shadow", T0 + second * SECOND, 0.02)
    assert rollouts.counted("calories", T0) == (T0, counted)
    assert rollouts.looked("calories").verdict == HOLD
    assert 50 < len(rollouts.looks("calories", T0)) < 250
    before = len(rollouts.looks("calories", T0))
    promote = HOLD.model_copy(update={"verdict": "PROMOTE"})
    rollouts.look(OF, counted, promote, "shadow", T0 + 301 * SECOND, 0.02)
    assert len(rollouts.looks("calories", T0)) == before + 1, "what says otherwise is kept at once"


def test_the_known_use_cases_declare_plans_that_their_outputs_can_honour():
    for name in catalog.find(()):
        case = catalog.load(name, ())
        named = set(case.rollout.disagreement_at_most) | set(case.rollout.shift_at_most)
        columns = {field.name: np.array([], object if field.type == "text" else float) for field in case.inputs}
        outputs = case.outputs({part.name: np.zeros(0) for part in case.parts}, columns)
        assert named <= set(outputs)
