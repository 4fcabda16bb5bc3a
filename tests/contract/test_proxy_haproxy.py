import http.client
import json
import threading
from collections import Counter
from datetime import timedelta

import pytest

from pipelines.predictions import spool
from pipelines.rollout.proxy import Backend, Line
from tests.conftest import wait_for
from tests.places import answers, make_bento, proxied, starting
from tests.releases import ROW, make_release

BODY = json.dumps(ROW).encode()
HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def bento(tmp_path_factory):
    root = tmp_path_factory.mktemp("bentos")
    return make_bento(make_release(root / "release"), "3", root / "store").path


@pytest.fixture
def start(bento, home):
    with starting(bento, home.root) as starter:
        yield starter


@pytest.fixture
def proxy(home):
    with proxied(home.proxy) as running:
        yield running


def backend(*lines: Line, use_case: str = "calories") -> Backend:
    return Backend(use_case, timedelta(seconds=2), 245_760, "User_ID", lines)


def ask(proxy, body: bytes = BODY, path: str = "/calories/predict", method: str = "POST", **headers: str):
    """One request on a connection of its own: status, headers, decoded body."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    connection.request(
        method, path, body, HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    )
    got = connection.getresponse()
    content = json.loads(got.read())
    connection.close()
    return got.status, {name.lower(): value for name, value in got.getheaders()}, content


class Asking:
    """Clients that ask without a pause; every answer that is not 200 is kept."""

    def __init__(self, proxy, clients: int = 4) -> None:
        self.port = proxy.port
        self.slots: Counter[str] = Counter()
        self.failed: list[object] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stop.is_set():
            try:
                connection.request("POST", "/calories/predict", BODY, HEADERS)
                got = connection.getresponse()
                content = got.read()
            except (http.client.HTTPException, OSError) as broken:
                self.failed.append(broken)
                connection.close()
                continue
            self.slots[got.headers.get("x-slot", "")] += 1
            if got.status != 200:
                self.failed.append((got.status, content))
        connection.close()

    def some_more(self, slot: str = "stable", n: int = 200) -> None:
        enough = self.slots[slot] + n
        wait_for(lambda: self.slots[slot] >= enough, f"{n} more answers by {slot}: {self.slots} {self.failed[:3]}")

    def __enter__(self) -> "Asking":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_before_any_place_exists_the_proxy_answers_in_the_contracts_words(proxy):
    proxy.apply((backend(),))
    status, headers, content = ask(proxy)
    assert (status, content["error"]["code"]) == (503, "no_place")
    assert int(headers["retry-after"]) > 0
    for path in ("/", "/nothing/predict", "/caloriesx"):
        status, _, content = ask(proxy, path=path)
        assert (status, content["error"]["code"]) == (404, "not_found")


def test_a_request_reaches_its_place_and_comes_back_signed(proxy, start):
    place = start("a")
    proxy.apply((backend(Line("a", place.port, 100, "stable")),))
    status, headers, content = ask(proxy, x_request_id="forged", x_touchline_role="forged")
    assert status == 200
    assert (headers["x-slot"], headers["x-model-version"]) == ("stable", "3")
    assert headers["x-request-id"] != "forged"
    assert content["prediction_id"] == f"{headers['x-request-id']}-0"
    assert [record.request_id for record in spool.read_all(place.spool)] == [headers["x-request-id"]]
    for path in ("/readyz", "/livez", "/healthz", "/metrics", "/docs.json", "/model", "/schema.json"):
        assert answers(f"http://127.0.0.1:{proxy.port}/calories{path}", 60)
    assert ask(proxy, b" " * 250_000)[0] == 413
    assert ask(proxy, b"{")[2]["error"]["code"] == "bad_json"
    assert ask(proxy, path="/calories/nothing")[0] == 404
    assert ask(proxy, path="/calories")[0] == 404


def test_swaps_kills_and_reloads_cost_no_request(proxy, start):
    first, second = start("a"), start("b")
    both = (Line("a", first.port, 100, "stable"), Line("b", second.port, 100, "stable"))
    proxy.apply((backend(*both),))
    with Asking(proxy) as clients:
        clients.some_more()
        for _ in range(3):  # the line's address changes under load
            newer = start("a")
            proxy.apply((backend(both[0]._replace(port=newer.port), both[1]),))
            clients.some_more()
            first.kill(15)
            first = newer
        second.kill()
        clients.some_more(n=500)
        proxy.apply((backend(Line("a", first.port, 100, "stable")),))
        clients.some_more()
        proxy.apply((backend(Line("a", first.port, 100, "stable")), backend(use_case="other")))  # a reload
        clients.some_more(n=500)
        third = start("c")
        proxy.apply((backend(Line("c", third.port, 100, "stable")), backend(use_case="other")))
        first.kill(15)
        clients.some_more()
    assert not clients.failed
    assert set(clients.slots) == {"stable"}


def test_a_canary_gets_its_share_and_its_death_costs_nothing(proxy, start):
    stable, canary = start("a"), start("b")

    def share(basis_points: int) -> None:
        lines = Line("a", stable.port, 100, "stable"), Line("b", canary.port, basis_points, "canary")
        proxy.apply((backend(*lines),))

    def slots() -> dict[str, str]:
        keys = map(str, range(1000, 1200))
        return {key: ask(proxy, x_entity_key=key)[1]["x-slot"] for key in keys}

    share(1000)
    small = slots()
    share(2500)
    larger = slots()
    grown = {key for key, slot in larger.items() if slot == "canary"}
    assert {key for key, slot in small.items() if slot == "canary"} < grown
    assert 25 <= len(grown) <= 75
    long: set[str] = set()
    for key in list(small)[:50]:  # the field of a single request decides as the header does
        body = json.dumps(ROW | {"User_ID": int(key)}).encode()
        assert ask(proxy, body)[1]["x-slot"] == larger[key]
    for number in range(110_000_000, 110_000_300):  # long numbers too, and however they are written
        slot = ask(proxy, x_entity_key=str(number))[1]["x-slot"]
        for key in (number, str(number)) if number % 10 == 0 else (number,):
            assert ask(proxy, json.dumps(ROW | {"User_ID": key}).encode())[1]["x-slot"] == slot
        long.add(slot)
    assert long == {"stable", "canary"}
    assert ask(proxy, path="/calories/model", method="GET", x_entity_key=min(grown))[2]["role"] == "canary"
    with Asking(proxy) as clients:
        clients.some_more("canary")
        before = {each.line: each for each in proxy.counters()}["b"]
        canary.kill()
        clients.some_more(n=500)
        after = {each.line: each for each in proxy.counters()}["b"]
        proxy.apply((backend(Line("a", stable.port, 100, "stable")),))
        clients.some_more()
    assert not clients.failed
    assert set(clients.slots) == {"stable", "canary"}
    assert before.failed == 0
    assert after.failed > 0, "a retry hides it from the clients, not from the canary's own counters"


def test_a_canary_that_died_between_requests_is_seen_by_what_it_refused(proxy, start):
    stable, canary = start("a"), start("b")
    proxy.apply((backend(Line("a", stable.port, 100, "stable"), Line("b", canary.port, 10_000, "canary")),))
    assert ask(proxy)[1]["x-slot"] == "canary"
    canary.kill()
    assert ask(proxy)[1]["x-slot"] == "stable"
    counted = {each.line: each for each in proxy.counters()}["b"]
    assert counted.failed == 1


def test_the_canary_becomes_stable_without_a_failed_request(proxy, start):
    old, new = start("a"), start("b")
    with_canary = (Line("a", old.port, 100, "stable"), Line("b", new.port, 5000, "canary"))
    full = (Line("a", old.port, 0, "previous"), Line("b", new.port, 100, "stable"))
    proxy.apply((backend(*with_canary),))
    with Asking(proxy) as clients:
        for lines in (with_canary, full, with_canary, full):
            proxy.apply((backend(*lines),))
            clients.some_more()
    assert not clients.failed
    counted = {each.line: each for each in proxy.counters()}
    assert counted["a"].up and counted["b"].requests > counted["a"].requests > 0


def test_what_runs_follows_the_file_after_a_restart(home, start):
    place = start("a")
    with proxied(home.proxy) as proxy:
        proxy.apply((backend(Line("a", place.port, 100, "stable")),))
        assert ask(proxy)[0] == 200
        text = (home.proxy / "haproxy.cfg").read_text()
    assert f"server a 127.0.0.1:{place.port} weight 100" in text
