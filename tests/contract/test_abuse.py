"""Whatever a client sends, and however: a typed 4xx, never a 5xx, and nobody else pays for it."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import resource
import socket
import struct
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import negative_data_rejection

from pipelines.rollout.proxy import Backend, Line
from pipelines.serving import schema
from pipelines.use_cases.calories import USE_CASE
from tests.places import listening, make_bento, proxied, starting
from tests.releases import ROW, make_release

SOCKETS = 1000
FLAT_BYTES = 24 * 2**20
"""Memory that allocators and caches may come to hold; a leak of 10 MB bodies is many times that."""
FAILS_ALONE = {"/predict/batch", "/labels"}
"""Where a wrong row is no wrong request: it gets an error of its own."""
API = schemathesis.openapi.from_dict(schema.openapi(USE_CASE, ("calories",), "1"))


class Served(NamedTuple):
    """A place behind the proxy."""

    port: int
    processes: tuple[psutil.Process, ...]

    @property
    def memory(self) -> int:
        """Resident bytes of both."""
        return sum(process.memory_info().rss for process in self.processes)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("abused")
    bento = make_bento(make_release(root / "release"), "1", root / "store").path
    with starting(bento, root) as start, proxied(root / "proxy") as proxy:
        place = start("a")
        line = Line("a", place.port, 100, "stable")
        proxy.apply((Backend("calories", timedelta(seconds=2), USE_CASE.serving.body_limit, "User_ID", (line,)),))
        yield Served(proxy.port, (psutil.Process(place.process.pid), *listening(proxy.port)))


@pytest.fixture(scope="module")
def files() -> Iterator[None]:
    """As many open sockets as the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ask(served, path="/predict", body=b"", method="POST", **headers):
    """Status and decoded body; a body that is refused for its length may be answered before it was sent whole."""
    line = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    with contextlib.closing(line):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.request(method, f"/calories{path}", body, {"content-type": "application/json", **headers})
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())


def good(served) -> bool:
    return ask(served, body=json.dumps(ROW).encode())[0] == 200


def opened(served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=30)


def told(line: socket.socket) -> bytes:
    """What comes until the other side ends."""
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: line.recv(65536), b""))
    return b""


HEAD = b"POST /calories/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


# --- bodies ------------------------------------------------------------------------------------------------


def garbage(kind: int, dice: random.Random) -> object:
    """A value that is no row."""
    whole = dict(ROW)
    name = dice.choice(list(whole))
    changed = [
        None, [], {}, "", "\x00", -1e308, 10**30, True, "null", [[[[]]]], {name: {}}, "9" * 500, 1e-320, "ÿ",
    ]  # fmt: skip
    if kind % 3 == 0:
        return dice.choice(changed)
    if kind % 3 == 1:
        whole[name] = dice.choice(changed)
        return whole
    del whole[name]
    return {**whole, dice.choice(["", "Age ", "__class__", "🐴"]): dice.choice(changed)}


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_rows_of_garbage_each_get_their_own_typed_error(served, seed):
    dice = random.Random(seed)
    rows = [garbage(kind, dice) for kind in range(100)]
    status, answer = ask(served, "/predict/batch", json.dumps({"rows": rows}).encode())
    assert status == 200
    refused = [each["error"] for each in answer["predictions"] if "error" in each]
    assert len(answer["predictions"]) == 100
    assert len(refused) >= 90, "the others are rows with a harmless change"
    assert all(error["code"] and error["row"] is not None for error in refused)
    assert good(served)


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_nothing_get_a_typed_4xx(served, seed):
    dice = random.Random(seed)
    for size in (0, 1, 10, 1000, 40_000):
        for path in ("/predict", "/predict/batch", "/labels"):
            status, answer = ask(served, path, dice.randbytes(size))
            assert 400 <= status < 500 and answer["error"]["code"], (size, path, status)
    assert good(served)


def test_half_a_surrogate_pair_is_no_text_and_refuses_the_whole_body(served):
    status, answer = ask(served, "/predict/batch", rb'{"rows": [{"Gender": "\ud800"}]}')
    assert (status, answer["error"]["code"]) == (400, "bad_json")


def test_bodies_of_ten_megabytes_are_refused_and_memory_stays_flat(served):
    for _ in range(5):
        assert ask(served, body=b" " * 10_000_000)[0] == 413
    before = served.memory
    for _ in range(25):
        assert ask(served, body=os.urandom(10_000_000))[0] == 413
        assert ask(served, body=b"[" * 49_000)[0] == 400
    assert served.memory - before < FLAT_BYTES
    assert good(served)


# --- connections -------------------------------------------------------------------------------------------


def test_a_thousand_open_sockets_keep_nobody_from_an_answer_and_memory_stays_flat(served, files):
    before = served.memory
    with contextlib.ExitStack() as lines:
        for place in range(SOCKETS):
            line = lines.enter_context(opened(served))
            line.sendall((b"", HEAD, HEAD + b"content-length: 500\r\n\r\n{")[place % 3])
        assert all(good(served) for _ in range(50))
        assert served.memory - before < FLAT_BYTES + SOCKETS * 2 * 65_536, "a buffer each way for each"
    assert good(served)


def test_a_client_that_dribbles_is_told_that_it_is_too_slow(served):
    with opened(served) as head, opened(served) as body:
        head.sendall(HEAD)
        body.sendall(HEAD + b"content-length: 500\r\n\r\n{")
        assert good(served)
        answers = [told(line) for line in (head, body)]
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers), answers
    assert json.loads(answers[1].split(b"\r\n\r\n", 1)[1])["error"]["code"] == "request_timeout"


def test_connections_that_are_torn_off_at_any_byte_leave_nothing_behind(served):
    whole = HEAD + b"content-length: 100\r\n\r\n" + json.dumps(ROW).encode()[:100].ljust(100)
    for cut in range(1, len(whole), 7):
        with opened(served) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
            line.sendall(whole[:cut])
    assert all(good(served) for _ in range(20))


def test_a_half_closed_connection_still_gets_its_answer(served):
    body = json.dumps(ROW).encode()
    with opened(served) as line:
        line.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        line.shutdown(socket.SHUT_WR)
        assert told(line).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "headers",
    [b"x-large: " + b"a" * 70_000 + b"\r\n", b"".join(b"x-%d: a\r\n" % n for n in range(5000)), b"no colon\r\n",
     b"content-length: -1\r\n", b"content-length: 5\r\ncontent-length: 6\r\n", b"transfer-encoding: sideways\r\n",
     b"x-request-id: \x00\r\n"],
    ids=["one of 70 kB", "5,000 of them", "no header", "negative length", "two lengths", "coding", "zero byte"],
)  # fmt: skip
def test_what_is_no_http_gets_a_400_in_the_proxys_own_words_and_an_end(served, headers):
    with opened(served) as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(HEAD + headers + b"\r\n{}")
        answer = told(line)
    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert good(served)


def test_headers_of_the_proxy_cannot_be_forged(served):
    forged = {"x-request-id": "forged", "x-touchline-role": "canary"}
    status, answer = ask(served, body=json.dumps(ROW).encode(), **forged)
    assert status == 200
    assert not answer["prediction_id"].startswith("forged")
    assert ask(served, "/model", method="GET", **forged)[1]["role"] == "stable"


def test_many_clients_at_once_with_good_and_bad_bodies_get_each_their_own_answer(served):
    def one(number):
        body = {**ROW, "prediction_id": str(number)} if number % 2 else {**ROW, "Age": "old"}
        status, answer = ask(served, body=json.dumps(body).encode())
        return status == 200 if number % 2 else answer["error"]["field"] == "Age"

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert all(pool.map(one, range(400)))


# --- the document ------------------------------------------------------------------------------------------


@API.parametrize()
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_every_call_that_the_document_allows_or_forbids_is_answered_as_it_says(case, served):
    ways = [negative_data_rejection] if case.path in FAILS_ALONE else []
    case.call_and_validate(base_url=f"http://127.0.0.1:{served.port}/calories", excluded_checks=ways)
