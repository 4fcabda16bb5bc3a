"""What stands behind the hot path is loaded by its first request, once, and ends with the server."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from pipelines.serving.behind import Behind


class Application:
    """Says its name; remembers what happened to it."""

    def __init__(self):
        self.happened = []
        self.router = self

    @asynccontextmanager
    async def lifespan_context(self, app):
        assert app is self
        task = asyncio.current_task()
        self.happened.append("begun")
        try:
            yield
        finally:
            assert asyncio.current_task() is task
            self.happened.append("ended")

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


class Server:
    """Begins and ends an application as an ASGI server does."""

    def __init__(self, app):
        self.app, self.told, self.said = app, asyncio.Queue(), asyncio.Queue()

    async def __aenter__(self):
        self.life = asyncio.create_task(self.app({"type": "lifespan"}, self.told.get, self.said.put))
        await self._passed("startup")
        return self

    async def __aexit__(self, *_):
        await self._passed("shutdown")
        await self.life

    async def _passed(self, what):
        await self.told.put({"type": f"lifespan.{what}"})
        assert await asyncio.wait_for(self.said.get(), 10) == {"type": f"lifespan.{what}.complete"}

    async def get(self, path):
        said = asyncio.Queue()
        await self.app({"type": "http", "path": path, "method": "GET", "headers": []}, None, said.put)
        return b"".join([said.get_nowait().get("body", b"") for _ in range(said.qsize())])


def loading(*applications):
    """A loader that gives these in turn, or raises them; and by which threads it was called."""
    waiting, threads = list(applications), []

    def load():
        threads.append(threading.current_thread())
        given = waiting.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    return load, threads


def test_nothing_is_loaded_for_a_server_that_is_not_asked():
    load, threads = loading()

    async def run():
        async with Server(Behind(load)) as server:
            assert await server.get("/metrics") == b""

    asyncio.run(run())
    assert threads == []


def test_requests_at_once_load_it_once_beside_the_loop_and_it_ends_with_the_server():
    behind = Application()
    load, threads = loading(behind)

    async def run():
        async with Server(Behind(load)) as server:
            told = await asyncio.gather(*(server.get(f"/{n}") for n in range(5)))
            assert told == [b"/0", b"/1", b"/2", b"/3", b"/4"]
            assert await server.get("/metrics") == b"/metrics"
            assert behind.happened == ["begun"]

    asyncio.run(run())
    assert behind.happened == ["begun", "ended"]
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_a_request_that_is_given_up_leaves_the_loading_to_the_others():
    behind, may = Application(), threading.Event()

    def load():
        assert may.wait(10)
        return behind

    async def run():
        async with Server(Behind(load)) as server:
            first, second = (asyncio.create_task(server.get(path)) for path in ("/first", "/second"))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            may.set()
            assert await second == b"/second"

    asyncio.run(run())
    assert behind.happened == ["begun", "ended"]


def test_what_loading_raises_each_request_raises_and_the_server_still_ends():
    load, threads = loading(ImportError("no service here"))

    async def run():
        async with Server(Behind(load)) as server:
            for _ in range(2):
                with pytest.raises(ImportError, match="no service here"):
                    await server.get("/schema.json")

    asyncio.run(run())
    assert len(threads) == 1
