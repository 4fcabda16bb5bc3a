"""What stands behind the hot path, loaded when it is first asked for: no prediction needs it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pipelines.serving.hot import METRICS, App, Receive, Response, Scope, Send, sent

NOTHING = Response(200, [(b"content-type", b"text/plain; charset=utf-8")], b"")


class Router(Protocol):
    """Of an application: what begins and ends with it."""

    def lifespan_context(self, app: App) -> AbstractAsyncContextManager[object]:
        """Open while the application may be asked."""


class Application(Protocol):
    """A Starlette application, as BentoML makes one of a service."""

    router: Router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""


class Behind:
    """ASGI: an application that is loaded by its first request, in a thread, while others are answered.

    What loading raises, each request raises that would have been answered by it.
    """

    def __init__(self, load: Callable[[], Application]) -> None:
        """Nothing is loaded yet."""
        self._load = load
        self._loaded: asyncio.Future[Application] | None = None
        self._ending = asyncio.Event()
        self._open: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the server's own beginning and end are those of what is loaded."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if self._loaded is None and scope["path"] == METRICS:
            return await sent(NOTHING, send)  # it has counted nothing yet
        if self._loaded is None:
            self._loaded = asyncio.get_running_loop().create_future()
            self._open = asyncio.create_task(self._keep_open(self._loaded))
        app = await asyncio.shield(self._loaded)
        return await app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self._ending.set()
        if self._open is not None:
            await self._open
        await send({"type": "lifespan.shutdown.complete"})

    async def _keep_open(self, loaded: "asyncio.Future[Application]") -> None:
        """One task from beginning to end: contexts are left by the task that entered them."""
        try:
            app = await asyncio.to_thread(self._load)
            async with app.router.lifespan_context(app):
                loaded.set_result(app)
                await self._ending.wait()
        except Exception as failed:
            if loaded.done():
                raise
            loaded.set_exception(failed)
