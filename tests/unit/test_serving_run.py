"""An answer leaves a place in one piece, or not at all; a hot request goes a short way."""

import asyncio
import json

import pytest
import uvicorn
from uvicorn.server import ServerState

from pipelines.predictions.spool import NoSpool
from pipelines.serving import predictor
from pipelines.serving.hot import Answers, Hot, Identity, Reply
from pipelines.serving.run import PAUSE_NS, Corked, OnePiece, Pace
from pipelines.use_cases.calories import USE_CASE
from tests.releases import make_release
from tests.unit.test_serving_hot import STAMP


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return predictor.load(make_release(tmp_path_factory.mktemp("release") / "release"), USE_CASE)


class Written:
    """A transport that remembers each write."""

    def __init__(self):
        self.pieces, self.closed = [], False

    def write(self, data):
        assert not self.closed
        self.pieces.append(data)

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name):
        return name


def played(act):
    """What was written when the act ran in a loop."""
    transport = Written()

    async def turn():
        act(Corked(transport, asyncio.get_running_loop()))
        await asyncio.sleep(0)

    asyncio.run(turn())
    return transport


def test_headers_and_body_of_one_turn_are_one_write():
    def answer(corked):
        corked.write(b"headers")
        corked.write(b"body")

    assert played(answer).pieces == [b"headersbody"]


def test_what_is_held_goes_before_the_end_and_nothing_after_it():
    def answer(corked):
        corked.write(b"last words")
        corked.close()
        corked.write(b"too late")

    transport = played(answer)
    assert (transport.pieces, transport.closed) == ([b"last words"], True)


def test_what_leaves_at_once_leaves_behind_what_is_held():
    def answer(corked):
        corked.write(b"first, ")
        corked.write_at_once(b"second")
        corked.write(b"later")

    assert played(answer).pieces == [b"first, second", b"later"]


def test_requests_come_one_by_one_when_two_in_a_row_came_after_a_pause():
    pace, now, told = Pace(), 0, []
    for pause in (PAUSE_NS + 1, PAUSE_NS + 1, PAUSE_NS + 1, 10, 10, PAUSE_NS + 1, 10, PAUSE_NS + 1, PAUSE_NS + 1):
        now += pause
        told.append(pace.one_by_one(now))
        now += 1000
        pace.answered(now)
    assert told == [False, True, True, False, False, False, False, False, True]


def test_all_else_is_the_transport_s():
    asked = []
    played(lambda corked: asked.append(corked.get_extra_info("peername")))
    assert asked == ["peername"]


# --- the short way of a hot request ------------------------------------------------------------------------


class Model:
    """What a model's code does to each request; remembers how each came."""

    def __init__(self):
        self.asked = []

    def answers(self, body, asked):
        self.asked.append(body)
        if body == b'"broken"':
            raise ZeroDivisionError("the model's code")
        return Reply(200, b"[%s]" % body)


@pytest.fixture
def model(monkeypatch):
    made = Model()
    monkeypatch.setattr(Answers, "predict", lambda _, body, asked: made.answers(body, asked))
    return made


def spoken(opened, model, *pieces, then=None):
    """What a place says to pieces of bytes, sent one after the other, until it closes or is idle."""

    async def talk():
        app = Hot(_behind, Answers(USE_CASE, opened, NoSpool(), Identity("a", STAMP, "digest")))
        config = uvicorn.Config(
            app, lifespan="off", log_level="critical", timeout_keep_alive=1, proxy_headers=False
        )
        config.load()
        made = []
        state = ServerState()

        def protocol():
            made.append(OnePiece(config, state, {}))
            return made[-1]

        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        if then:
            then(made[0], writer)
        told = await reader.read()
        writer.close()
        server.close()
        return told

    return asyncio.run(talk())


async def _behind(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"behind"})


def request(body=b"1", *headers, path="/predict"):
    told = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers]
    if not any(header.startswith("transfer-encoding") for header in headers):
        told.append(f"content-length: {len(body)}")
    return "\r\n".join([*told, "", ""]).encode() + body


def bodies(told):
    return [piece.split(b"\r\n\r\n", 1)[1] for piece in told.split(b"HTTP/1.1 ")[1:]]


def statuses(told):
    return [int(piece[:3]) for piece in told.split(b"HTTP/1.1 ")[1:]]


def test_requests_of_one_connection_are_answered_one_after_the_other(opened, model):
    told = spoken(opened, model, request(b"1"), request(b"2"))
    assert (statuses(told), bodies(told)) == ([200, 200], [b"[1]", b"[2]"])
    assert b"content-length: 3\r\n" in told and b"x-model-version: 3\r\n" in told


def test_requests_that_come_in_one_piece_are_answered_in_order_whichever_way_each_goes(opened, model):
    get = b"GET /docs.json HTTP/1.1\r\nhost: x\r\n\r\n"
    told = spoken(opened, model, request(b"1") + request(b"2") + get + request(b"3") + request(b"4"))
    found = bodies(told)
    assert statuses(told) == [200] * 5
    assert (found[:2], found[3:]) == ([b"[1]", b"[2]"], [b"[3]", b"[4]"])
    assert json.loads(found[2])["openapi"]


def test_a_request_that_comes_byte_by_byte_is_answered_when_it_is_whole(opened, model):
    whole = request(b'"slow"')
    told = spoken(opened, model, whole[:20], whole[20:-3], whole[-3:-1], whole[-1:])
    assert (statuses(told), bodies(told)) == ([200], [b'["slow"]'])


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"3\r\n[1]\r\n0\r\n\r\n", "transfer-encoding: chunked"), 200),
        (request(b"1", "connection: close"), 200),
        (request(b"1", "content-encoding: gzip"), 415),
        (request(b"1", path="/nowhere"), 404),
        (request(b" " * (USE_CASE.serving.body_limit + 1)), 413),
        (b"POST /predict HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n1", 200),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n1", 400),
    ],
    ids=["chunked", "closing", "compressed", "unknown path", "too long", "HTTP 1.0", "two lengths"],
)
def test_what_does_not_fit_the_short_way_is_answered_as_well(opened, model, sent, status):
    assert statuses(spoken(opened, model, sent)) == [status]


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(opened, model):
    head, body = request(b"1", "expect: 100-continue")[:-1], b"1"
    told = spoken(opened, model, head, body)
    assert statuses(told) == [100, 200]


def test_a_model_whose_code_fails_gives_a_typed_error_and_the_next_request_is_answered(opened, model):
    told = spoken(opened, model, request(b'"broken"'), request(b"2"))
    assert statuses(told) == [500, 200]
    assert json.loads(bodies(told)[0])["error"]["code"] == "internal"


def test_a_place_that_is_told_to_stop_answers_what_is_still_coming_in(opened, model):
    whole = request(b"12")

    def stop_and_finish(protocol, writer):
        protocol.shutdown()
        writer.write(whole[-1:])

    told = spoken(opened, model, whole[:-1], then=stop_and_finish)
    assert (statuses(told), bodies(told)) == ([200], [b"[12]"])
    assert b"connection: close" in told


def test_an_idle_connection_ends_when_the_place_stops(opened, model):
    def stop(protocol, writer):
        protocol.shutdown()

    assert statuses(spoken(opened, model, request(), then=stop)) == [200]


# --- how long a connection may be idle ---------------------------------------------------------------------


def long_idle(protocol):
    """Let the connection have been idle for as long as it may, and look at it."""
    assert protocol._watch is not None
    protocol._idle_since -= protocol.timeout_keep_alive
    protocol._look()


def test_an_idle_connection_ends(opened, model):
    told = spoken(opened, model, request(), then=lambda protocol, writer: long_idle(protocol))
    assert statuses(told) == [200]


def test_a_connection_that_was_idle_for_less_is_looked_at_again_and_goes_on(opened, model):
    def look_and_ask(protocol, writer):
        protocol._look()
        assert protocol._watch is not None and not protocol.transport.is_closing()
        writer.write(request(b"2"))

    assert statuses(spoken(opened, model, request(b"1"), then=look_and_ask)) == [200, 200]


@pytest.mark.parametrize("header", ["x: y", "connection: close"], ids=["short", "usual"])
def test_a_request_that_is_coming_in_keeps_its_connection(opened, model, header):
    """Whichever way it goes, and though it began in the same piece as the end of another."""
    begun = request(b"22", header)

    def look_and_finish(protocol, writer):
        long_idle(protocol)
        assert not protocol.transport.is_closing()
        writer.write(begun[-1:])

    assert statuses(spoken(opened, model, request(b"1") + begun[:-1], then=look_and_finish)) == [200, 200]
