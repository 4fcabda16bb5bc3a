"""`python -m pipelines.serving.run SOURCE PORT`: the HTTP server of a place, on loopback.

Each answer leaves in one piece. The server writes headers and body apart; a place that is killed between
the two would have sent half an answer, which the proxy cannot take back and ask again.
"""

import asyncio
import gc
import logging
import sys
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pipelines.serving.hot import Hot, Response
from pipelines.serving.place import GRACE_SECONDS

log = logging.getLogger(__name__)


class Corked:
    """A transport that hands on at once what one turn of the loop wrote."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._held = transport, loop, list[bytes]()

    def write(self, data: bytes) -> None:
        """Hold it until the turn ends."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

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


class OnePiece(HttpToolsProtocol):
    """uvicorn's protocol on a corked transport, and a short way for the hot routes.

    Nothing is awaited between a whole body and its answer, so such a request needs no task, no events and no
    cycle of its own: it is answered when its last byte is parsed. All others (chunked, closing, behind another,
    too long, `Expect`) go the server's usual way, which knows every case.
    """

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
        self._write(self._answered(body))
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

    def _write(self, response: Response) -> None:
        """At the end of the turn: answers of one turn leave together, or the proxy would be woken for each."""
        ending = [(b"connection", b"close")] if self._ending else []
        headers = (*self.server_state.default_headers, *response.headers, *ending)
        told = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[response.status], *told, b"\r\n", response.body]))

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
