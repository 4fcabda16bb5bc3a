"""An answer leaves a place in one piece, or not at all."""

import asyncio

from pipelines.serving.run import Corked


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


def test_all_else_is_the_transport_s():
    asked = []
    played(lambda corked: asked.append(corked.get_extra_info("peername")))
    assert asked == ["peername"]
