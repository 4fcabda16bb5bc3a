"""`python -m pipelines.serving.run SOURCE PORT`: the HTTP server of a place, on loopback.

Each answer leaves in one piece. The server writes headers and body apart; a place that is killed between
the two would have sent half an answer, which the proxy cannot take back and ask again.
"""

import asyncio
import gc
import logging
import sys
import time
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pipelines.serving.hot import Hot, Response
from pipelines.serving.place import GRACE_SECONDS

log = logging.getLogger(__name__)
PAUSE_NS = 50_000
"""A busy place takes up the next request within microseconds; the way to a client and back takes longer."""


class Corked:
    """A transport that hands on at once what one turn of the loop wrote."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._held = transport, loop, list[bytes]()

    def write(self, data: bytes) -> None:
        """Hold it until the turn ends."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def write_at_once(self, data: bytes) -> None:
        """Hand it on now, behind what is held."""
        self._held.append(data)
        self.flush()

    def flush(self) -> None:
        """Hand on what is held."""
        whole, self._held = b"".join(self._held), []
        if whole and not self._transport.is_closing():
            self._transport.write(whole)

    def close(self) -> None:
        """What is held goes first."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's."""
        return getattr(self._transport, name)


class Pace:
    """Whether requests come one by one: two in a row came a while after the answer before them.

    An answer that waits for the end of its turn is 4 % later for a client that asks alone; without waiting a busy
    place answers a third fewer, because the proxy is woken for each answer.
    """

    def __init__(self) -> None:
        self._answered_at, self._paused = 0, False

    def one_by_one(self, now: int) -> bool:
        """To be asked once for each request, in nanoseconds of a clock that never goes back."""
        before, self._paused = self._paused, now - self._answered_at > PAUSE_NS
        return before and self._paused

    def answered(self, now: int) -> None:
        """An answer is on its way."""
        self._answered_at = now


class OnePiece(HttpToolsProtocol):
    """uvicorn's protocol on a corked transport, and a short way for the hot routes.

    Nothing is awaited between a whole body and its answer, so such a request needs no task, no events and no
    cycle of its own: it is answered when its last byte is parsed. All others (chunked, closing, behind another,
    too long, `Expect`) go the server's usual way, which knows every case.
    """

    _pace = Pace()
    """Of the place: all its connections are served by one thread."""
    _body: list[bytes] | None = None
    """What has come of a request that goes the short way; None while none does."""
    _path, _asked, _ending = "", dict[bytes, bytes](), False
    _idle_since: float | None = None
    """In seconds of the loop; None while a request is coming in or is answered."""
    _watch: asyncio.TimerHandle | None = None
    """One timer a connection, which looks how long it was idle: one a request would cost several microseconds."""

    @property
    def _hot(self) -> Hot:
        """What uvicorn loaded: a bento's `touchline_app:app`."""
        return cast("Hot", self.app)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn does."""
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn does."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None
        if self.timeout_keep_alive_task is not None:
            super()._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        """Choose the way."""
        self._path, self._asked = self.url.decode("latin-1"), dict(self.headers)
        if self._is_short():
            self._body = []
        else:
            super().on_headers_complete()

    def _is_short(self) -> bool:
        return (
            self._is_free()
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and b"connection" not in self._asked
            and not self.expect_100_continue
            and self._hot.takes(self._path, self._asked)
        )

    def _is_free(self) -> bool:
        """No request is on uvicorn's usual way."""
        return self.cycle is None or self.cycle.response_complete

    def on_body(self, body: bytes) -> None:
        """Keep it until it is whole."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer what went the short way."""
        if self._body is None:
            return super().on_message_complete()
        body, self._body = b"".join(self._body), None
        at_once = self._pace.one_by_one(time.perf_counter_ns())
        self._write(self._answered(body), at_once=at_once)
        self._pace.answered(time.perf_counter_ns())
        if self._ending:
            return self.transport.close()
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        if self._watch is None:
            self._watch = self.loop.call_later(self.timeout_keep_alive, self._look)
        return None

    def _look(self) -> None:
        """Close what was idle for too long; uvicorn's own timer does so behind a request of its usual way."""
        self._watch = None
        if self._idle_since is None or self._body is not None or not self._is_free():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._watch = self.loop.call_later(left, self._look)
        else:
            self.timeout_keep_alive_handler()

    def _answered(self, body: bytes) -> Response:
        try:
            return self._hot.respond(self._path, self._asked, body)
        except Exception:  # whatever a use case's own code raises: it is logged, and its client told
            log.exception("path=%s: the model's code failed", self._path)
            return self._hot.failed(self._path, self._asked)

    def _write(self, response: Response, *, at_once: bool) -> None:
        """At once, or at the end of the turn: then all answers of the turn leave together."""
        ending = [(b"connection", b"close")] if self._ending else []
        headers = (*self.server_state.default_headers, *response.headers, *ending)
        told = [b"%b: %b\r\n" % header for header in headers]
        whole = b"".join([STATUS_LINE[response.status], *told, b"\r\n", response.body])
        if at_once:
            cast("Corked", self.transport).write_at_once(whole)
        else:
            self.transport.write(whole)

    def shutdown(self) -> None:
        """A request that is still coming in is answered first."""
        if self._body is None:
            super().shutdown()
        else:
            self._ending = True


def main(source: str, port: int) -> None:
    """Serve `touchline_app:app` from a bento's `src` folder until told to stop."""
    gc.disable()  # until the bento is loaded
    uvicorn.run(
        "touchline_app:app", app_dir=source, host="127.0.0.1", port=port, loop="uvloop", http=OnePiece,
        access_log=False, server_header=False, proxy_headers=False, log_level="warning", lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
