"""`python -m pipelines.serving.run SOURCE PORT`: the HTTP server of a place, on loopback.

Each answer leaves in one piece. The server writes headers and body apart; a place that is killed between
the two would have sent half an answer, which the proxy cannot take back and ask again.
"""

import asyncio
import sys
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipelines.serving.place import GRACE_SECONDS


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
    """uvicorn's protocol on a corked transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn does."""
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))


def main(source: str, port: int) -> None:
    """Serve `service:app` from a bento's `src` folder until told to stop."""
    uvicorn.run(
        "service:app", app_dir=source, host="127.0.0.1", port=port, loop="uvloop", http=OnePiece,
        access_log=False, server_header=False, proxy_headers=False, log_level="warning", lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
