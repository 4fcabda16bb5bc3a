"""Rollouts on the real stack: rows stream at a use case whose plan takes seconds, and labels come after them."""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
from mlflow import MlflowClient

from pipelines import wiring
from pipelines.adapters.airflow_rest import of_home
from pipelines.adapters.postgres_book import kept
from pipelines.errors import Final
from tests.builders import football
from tests.conftest import wait_for
from tests.e2e.clients import asking
from tests.e2e.swift import (
    LIMIT,
    Code,
    answering,
    ended,
    rollout,
    serving,
    streaming,
    trained,
    under_way,
    until_ended,
    write,
)

CALM = {"threads": 1, "pause": 0.02, "use_case": "swift"}


@pytest.fixture(scope="module", autouse=True)
def one_connection(stack):
    """What is recorded is asked ten times a second: opening a connection each time would burn what is measured."""
    with kept(stack.settings.database):
        yield


@pytest.fixture(scope="module")
def swift(stack):
    """Its first version serves at once: there is nobody to measure it against."""
    write(stack)
    stack.run("ingest", "swift")
    first = trained(stack)
    wait_for(lambda: answering(stack) == first, "the first version to serve", LIMIT)
    return stack


def test_a_better_model_goes_from_challenger_to_champion_alone_and_no_request_fails(swift):
    with streaming(swift), asking(swift.settings.ports.proxy, swift.row(), **CALM) as client:
        version = trained(swift, TREES=600)
        wait_for(lambda: under_way(swift) == (version, "watch"), "the watch", LIMIT)
        assert len(serving(swift).of("previous", "1")) == 2
        end = until_ended(swift, version)
    assert (end.outcome, serving(swift).version) == ("done", version)
    assert client.failed == []
    assert set(client.versions) == {"1", version}
    stages = [each["stage_after"] for each in rollout(swift)["changes"]]
    assert stages == ["prepared", "shadow", "canary 10 %", "canary 50 %", "full", "watch", None]
    assert MlflowClient(swift.settings.mlflow).get_model_version_by_alias("swift", "champion").version in {
        version, int(version),
    }  # fmt: skip


def test_people_hear_of_it_and_airflow_and_mlflow_show_it(swift):
    version, end = rollout(swift)["champion"], rollout(swift)["past"][0]
    told = [notice["title"] for notice in swift.heard if notice["title"].startswith("swift")]
    assert told == [f"swift: version {version} promoted"]
    rest = of_home(swift.settings)
    run = f"rollout__{end['began'].replace('Z', '+00:00')}"
    wait_for(lambda: rest.state("rollout_swift", run) == "success", "the run in Airflow", LIMIT)
    states = {each.task: each.state for each in rest.tasks("rollout_swift", run)}
    assert states == dict.fromkeys(["shadow", "canary_10", "canary_50", "full", "watch"], "success")
    store = wiring.store(swift.settings)
    made_from = store.run_of("swift", version)
    wait_for(
        lambda: [each.path for each in store.client.list_artifacts(made_from, "rollout")], "the picture", LIMIT
    )


def test_a_worse_model_that_is_healthy_on_errors_and_latency_is_rolled_back_by_its_labels(swift):
    champion = serving(swift).version
    with streaming(swift), asking(swift.settings.ports.proxy, swift.row(), **CALM) as client:
        version = trained(swift, TREES=150)
        end = until_ended(swift, version)
    assert (end.outcome, serving(swift).version) == ("rolled back", champion)
    assert re.search(r"loss .* worse than the champion's, allowed 10 %, on \d+ labelled pairs", end.why)
    assert client.failed == []
    wait_for(
        lambda: any(notice["title"] == f"swift: version {version} rolled back" for notice in swift.heard),
        "the notice", 60,
    )  # fmt: skip


def test_a_model_whose_code_fails_is_rolled_back_by_its_errors(swift, tmp_path):
    champion, mark = serving(swift).version, tmp_path / "broken"
    with streaming(swift):
        version = trained(swift, TREES=600, SEED=2, BROKEN_WHILE=str(mark))
        wait_for(lambda: under_way(swift) == (version, "canary"), "the canary", LIMIT)
        mark.touch()
        end = until_ended(swift, version)
    assert (end.outcome, serving(swift).version) == ("rolled back", champion)
    assert "errors" in end.why


def test_an_equal_model_ends_as_the_plan_says_for_no_difference(swift):
    champion = serving(swift).version
    with streaming(swift):
        version = trained(swift, TREES=600, NO_DIFFERENCE="rollback")
        end = until_ended(swift, version)
    assert (end.outcome, serving(swift).version) == ("rolled back", champion)
    assert f"no difference to version {champion}" in end.why


def test_at_a_few_requests_an_hour_it_holds_and_says_for_how_long_about(swift):
    version = trained(swift, TREES=602)
    wait_for(lambda: under_way(swift) == (version, "shadow"), "the shadow", LIMIT)
    for _ in range(
        12
    ):  # each is in the share of the shadow by its id: all twelve are left out once in 4,096 times
        assert swift.ask("/swift/predict", swift.row()).status == 200
    wait_for(lambda: (rollout(swift)["verdict"] or {}).get("verdict") == "HOLD", "a verdict", 60)
    wait_for(lambda: "at the present rate" in rollout(swift)["verdict"]["why"], "a pair", 60)
    assert re.search(r"waits for \d+ more", rollout(swift)["verdict"]["why"])
    assert "HOLD" in swift.run("rollout", "status", "swift")


def test_a_person_may_hold_resume_and_abort_it_and_orders_that_do_not_fit_are_final_errors(swift):
    version, _ = under_way(swift)
    assert "held: lunch" in swift.run("rollout", "hold", "swift", "--why", "lunch", "--by", "Jo")
    assert rollout(swift)["rollout"]["held"] == "Jo: lunch"
    assert "nothing waits for an approval" in swift.run("rollout", "approve", "swift", code=1)
    assert "goes on" in swift.run("rollout", "resume", "swift")
    assert "aborted: enough" in swift.run("rollout", "abort", "swift", "--why", "enough")
    assert under_way(swift) is None
    assert "no rollout is under way" in swift.run("rollout", "rollback", "swift", code=1)
    assert ended(swift, version).outcome == "rolled back"


def alias(swift, name):
    found = MlflowClient(swift.settings.mlflow).get_registered_model("swift").aliases
    return None if found.get(name) is None else str(found[name])


def set_alias(swift, name, version):
    client = MlflowClient(swift.settings.mlflow)
    if version is None:
        client.delete_registered_model_alias("swift", name)
    else:
        client.set_registered_model_alias("swift", name, version)


def test_aliases_moved_by_hand_begin_end_and_promote_rollouts_and_what_is_not_checked_is_moved_back(swift):
    champion = serving(swift).version
    set_alias(swift, "challenger", "1")
    wait_for(lambda: under_way(swift) == ("1", "shadow"), "the rollout of version 1", LIMIT)
    set_alias(swift, "challenger", None)
    wait_for(lambda: under_way(swift) is None, "its end", LIMIT)
    bare = _unchecked(swift)
    set_alias(swift, "challenger", bare)
    wait_for(lambda: alias(swift, "challenger") is None, "the alias to be taken away", LIMIT)
    set_alias(swift, "challenger", "1")
    wait_for(lambda: under_way(swift) == ("1", "shadow"), "the rollout of version 1", LIMIT)
    set_alias(swift, "champion", "1")
    wait_for(lambda: under_way(swift) == ("1", "watch"), "the watch", LIMIT)
    set_alias(swift, "champion", champion)
    wait_for(lambda: under_way(swift) is None, "the way back", LIMIT)
    wait_for(lambda: (alias(swift, "champion"), alias(swift, "challenger")) == (champion, None), "the aliases", 60)
    assert serving(swift).version == champion


def _unchecked(swift):
    client = MlflowClient(swift.settings.mlflow)
    source = client.get_model_version("swift", "1")
    made = client.create_model_version(
        "swift", source.source, run_id=source.run_id, model_id=source.source.removeprefix("models:/")
    )
    return str(made.version)


APPROVED = Code("(Stage(weight=10, **QUICK), Stage(weight=50, approval=True, **QUICK))")


def test_an_approval_in_airflow_lets_it_go_on(swift):
    with streaming(swift):
        version = trained(swift, TREES=610, STAGES=APPROVED)
        wait_for(lambda: serving(swift).rollout and serving(swift).rollout.asks, "the rollout to ask", LIMIT)
        rest, began = of_home(swift.settings), serving(swift).rollout.began
        run = f"rollout__{began.isoformat()}"
        person = Person(rest, run)
        wait_for(person.approved, "the question in Airflow, and its answer", LIMIT)
        wait_for(lambda: under_way(swift) != (version, "canary") or _step(swift) == 1, "the next stage", LIMIT)
    assert any("in Airflow" in each["who"] for each in rollout(swift)["changes"])
    swift.run("rollout", "rollback", "swift", "--why", "the test is over")


class Person:
    """Answers the question a few seconds after it appeared, and again where Airflow asks again.

    Airflow fails a task that is answered before its scheduler has heard that the task waits (about a second).
    """

    READS = 4.0

    def __init__(self, rest, run):
        self.rest, self.run, self.asked = rest, run, {}

    def approved(self):
        """Whether the answer was handed over."""
        tasks = {each.task: each for each in self.rest.tasks("rollout_swift", self.run)}
        asked = tasks.get("approve_canary_50")
        if asked is not None and asked.state == "awaiting_input":
            since = self.asked.setdefault(asked.tries, time.monotonic())
            if time.monotonic() - since > self.READS:
                self._answer()
        told = tasks.get("order_canary_50")
        return told is not None and told.state == "success"

    def _answer(self):
        task = f"/dags/rollout_swift/dagRuns/{quote(self.run, safe='')}/taskInstances/approve_canary_50/-1"
        with contextlib.suppress(Final):  # answered a moment ago
            self.rest._call("PATCH", f"{task}/hitlDetails", {"chosen_options": ["Approve"], "params_input": {}})


def _step(swift):
    return serving(swift).rollout.step


# --- three probabilities, labelled by what really happened --------------------------------------------------


@pytest.fixture(scope="module")
def derby(stack):
    """Real matches, where there are; its first version is blind, and serves at once."""
    write(stack, "derby")
    matches(stack)
    stack.run("ingest", "derby")
    first = trained(stack, "derby")
    wait_for(lambda: answering(stack, "derby") == first, "the first version to serve", LIMIT)
    return stack


def matches(stack):
    real = os.environ.get("TOUCHLINE_REAL_DATA")
    if real:
        for file in sorted((Path(real) / "bets" / "football_data").glob("E0_*.csv")):
            shutil.copyfile(file, stack.data / f"derby_{file.name}")
    else:
        dates = pl.col("Date").dt.strftime("%d/%m/%Y")
        football(4000).with_columns(dates).write_csv(stack.data / "derby_simulated.csv")


def test_of_bets_a_better_model_goes_to_champion_alone_and_one_that_is_blind_is_rolled_back(derby):
    with streaming(derby, "derby"):
        better = trained(derby, "derby", BLIND=False)
        assert until_ended(derby, better, "derby").outcome == "done"
        worse = trained(derby, "derby", SEED=1)
        end = until_ended(derby, worse, "derby")
    assert (end.outcome, serving(derby, "derby").version) == ("rolled back", better)
    assert re.search(r"(loss|calibration \w+) .*, on \d+ label", end.why), end.why
