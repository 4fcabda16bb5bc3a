"""Who hears of what: runs that failed or never came, each told once, whatever is away meanwhile."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from pipelines import settings as settings_of
from pipelines import watch
from pipelines.adapters import notifiers
from pipelines.errors import BadSettings, ServiceAway
from pipelines.fakes import MemoryNotices
from pipelines.machine import secrets, services
from pipelines.rollout.stages import Entry
from pipelines.tools import Notice
from pipelines.watch import Run, Watched
from pipelines.watcher import Watcher

NIGHTLY = "15 2 * * *"
START = datetime(2026, 3, 1, tzinfo=UTC)
DUE = datetime(2026, 3, 2, 2, 15, tzinfo=UTC)
NOTICE = Notice(key="k", severity="failure", title="retrain_calories failed", body="look")


def seen(*runs, paused=False, now=DUE + timedelta(hours=1), since=START):
    watched = Watched("retrain_calories", NIGHTLY, paused, runs)
    return [notice.title for notice in watch.notices(watched, since, now)]


def test_a_nightly_run_that_came_is_no_news():
    assert seen(Run("a", "success", DUE)) == []
    assert seen(Run("a", "running", DUE + timedelta(minutes=5))) == []


def test_a_nightly_run_that_did_not_come_is_missed_after_its_grace():
    assert seen(Run("a", "success", DUE - timedelta(days=1)), now=DUE + timedelta(minutes=10)) == []
    assert seen(Run("a", "success", DUE - timedelta(days=1))) == ["retrain_calories did not run"]


def test_what_was_due_before_the_watch_began_or_is_paused_is_not_missed():
    assert seen(since=DUE + timedelta(minutes=1)) == []
    assert seen(paused=True) == []


def test_a_failed_run_is_told_and_an_old_one_is_nobodys_news():
    assert seen(Run("a", "failed", DUE)) == ["retrain_calories failed"]
    assert seen(Run("b", "success", DUE), Run("a", "failed", DUE - timedelta(days=3))) == []


class Airflow:
    """What the watcher asks of Airflow."""

    url = "http://here"

    def __init__(self):
        self.away, self.failed, self.triggered = False, set(), []

    def trigger(self, dag, conf, run):
        self.triggered.append((dag, conf, run))

    def runs(self, dag, most):
        if self.away:
            raise ServiceAway("no")
        if dag.startswith("rollout_"):
            return [(run, "running", DUE) for known, _, run in self.triggered if known == dag]
        return [("run 1", "failed" if dag in self.failed else "success", DUE)]

    def is_paused(self, dag):
        return False

    def tasks(self, dag, run):
        from pipelines.adapters.airflow_rest import TaskRun

        return [TaskRun("gate", -1, "failed", 1, 2.0), TaskRun("train", -1, "success", 1, 2.0)]

    def log(self, dag, run, task):
        return ["noise", "GateRefused: rmse 9, floor 3"]


class Ear:
    """A notifier that may be away."""

    def __init__(self):
        self.heard, self.deaf = [], False

    def notify(self, notice):
        if self.deaf:
            raise ServiceAway("nobody listens")
        self.heard.append(notice)


class Rollouts:
    """What the watcher asks of the history."""

    def __init__(self):
        self.entries, self.begun = [], []

    def notable(self, since):
        return [each for each in self.entries if each.at >= since]

    def under_way(self):
        return self.begun


@pytest.fixture
def watching(home):
    airflow, ear = Airflow(), Ear()
    watcher = Watcher(settings_of.load(home=home.root), airflow, MemoryNotices(), ear, Rollouts())
    watcher.since = DUE
    return watcher, airflow, ear


def test_a_failure_is_told_once_with_the_task_its_words_and_where_to_look(watching):
    watcher, airflow, ear = watching
    airflow.failed = {"retrain_calories"}
    watcher.round(DUE + timedelta(minutes=5))
    watcher.round(DUE + timedelta(minutes=6))
    (notice,) = ear.heard
    assert "gate: noise | GateRefused: rmse 9, floor 3" in notice.body
    assert "http://here/dags/retrain_calories/runs/run 1" in notice.body


def test_what_became_of_a_rollout_is_told_once_also_while_airflow_is_away(watching):
    watcher, airflow, ear = watching
    airflow.away = True
    change = {"at": DUE, "use_case": "calories", "began": START, "version": "3", "percent": 0, "who": "reconciler"}
    why = "version 3: rolled back in canary 5 %: loss 8 % worse"
    entry = Entry(**change, stage_before="canary 5 %", stage_after=None, kind="rolled back", why=why)
    watcher.rollouts.entries = [entry]
    watcher.round(DUE + timedelta(minutes=1))
    watcher.round(DUE + timedelta(minutes=2))
    assert [notice.title for notice in ear.heard] == ["calories: version 3 rolled back"]
    assert why in ear.heard[0].body
    assert "touchline rollout status calories" in ear.heard[0].body


def test_each_rollout_gets_one_run_of_its_dag(watching):
    watcher, airflow, _ = watching
    watcher.rollouts.begun = [SimpleNamespace(use_case="calories", began=START)]
    watcher.round(DUE)
    watcher.round(DUE)
    began = START.isoformat()
    assert airflow.triggered == [("rollout_calories", {"began": began}, f"rollout__{began}")]


def test_what_could_not_be_told_is_told_later(watching):
    watcher, airflow, ear = watching
    airflow.failed, ear.deaf = {"retrain_calories"}, True
    with pytest.raises(ServiceAway):
        watcher.round(DUE + timedelta(minutes=5))
    ear.deaf = False
    watcher.round(DUE + timedelta(minutes=6))
    assert [notice.title for notice in ear.heard] == ["retrain_calories failed"]


def test_an_airflow_that_stays_away_is_told_once_an_absence(watching):
    watcher, airflow, ear = watching
    airflow.away = True
    for minutes in (0, 1, 4, 5, 6):
        watcher.round(DUE + timedelta(minutes=minutes))
    assert [notice.title for notice in ear.heard] == ["Airflow does not answer"]
    airflow.away = False
    watcher.round(DUE + timedelta(minutes=7))
    airflow.away = True
    for minutes in (8, 12):
        watcher.round(DUE + timedelta(minutes=minutes))
    assert len(ear.heard) == 2


@pytest.fixture
def hook():
    """An HTTP server that keeps what it is sent."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port, heard
        server.shutdown()
        thread.join()


def test_a_webhook_gets_the_notice_as_json_and_apprise_its_own_form(hook):
    port, heard = hook
    notifiers.of(f"http://127.0.0.1:{port}/hook").notify(NOTICE)
    notifiers.of(f"json://127.0.0.1:{port}/hook").notify(NOTICE)
    assert heard[0] == NOTICE.model_dump()
    assert (heard[1]["title"], heard[1]["message"], heard[1]["type"]) == (NOTICE.title, "look", "failure")


def test_one_that_is_away_keeps_no_other_from_hearing_and_is_named_without_its_address(hook):
    port, heard = hook
    every = notifiers.EveryNotifier([
        notifiers.of("http://127.0.0.1:9/secret-token"),
        notifiers.of(f"http://127.0.0.1:{port}/"),
    ])
    with pytest.raises(ServiceAway) as away:
        every.notify(NOTICE)
    assert heard
    assert "secret-token" not in str(away.value)


def test_an_address_of_no_known_kind_is_a_wrong_setting_and_not_repeated():
    with pytest.raises(BadSettings, match="TOUCHLINE_NOTIFY") as wrong:
        notifiers.of("pigeon://token@loft")
    assert "token" not in str(wrong.value)


def test_addresses_are_kept_among_the_secrets_and_reach_no_environment(home, monkeypatch):
    monkeypatch.setenv("TOUCHLINE_NOTIFY", '["https://hook.example/secret-token", "log:"]')
    settings = settings_of.load(home=home.root)
    secrets.generate(home)
    secrets.keep(settings)
    assert "secret-token" not in json.dumps(services.platform_environment(settings))
    settings_of.remember(settings)
    assert "secret-token" not in home.settings.read_text()
    monkeypatch.delenv("TOUCHLINE_NOTIFY")
    kept = settings_of.load(home=home.root).notify
    assert [each.get_secret_value() for each in kept] == ["https://hook.example/secret-token", "log:"]
    assert home.secret_settings.stat().st_mode & 0o777 == 0o600
