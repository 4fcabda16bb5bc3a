"""The load: `touchline simulate`'s own open loop, in a process of its own, so that nobody else makes it late."""

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from pipelines import catalog
from pipelines.simulation import rows
from pipelines.simulation.drive import Asked, Drive
from pipelines.simulation.plan import Phase, Plan, requests
from tests.e2e.conftest import Stack

ROWS = 20_000
"""Each has a key of its own; of few keys the share that falls to a canary is a matter of luck."""
_SPAWN = multiprocessing.get_context("spawn")


class Load:
    """A load that runs; its requests once it has ended."""

    def __init__(self, stack: Stack, plan: Plan, use_case: str) -> None:
        self.asked: list[Asked] = []
        self._line, theirs = _SPAWN.Pipe()
        base = f"http://127.0.0.1:{stack.settings.ports.proxy}/{use_case}"
        self._process = _SPAWN.Process(
            target=_drive, args=(plan, base, use_case, stack.settings.use_cases, theirs)
        )
        self._process.start()
        theirs.close()
        self._began: float = self._line.recv()

    def now(self) -> float:
        """Seconds since its beginning."""
        return time.time() - self._began

    def at(self, time: datetime) -> float:
        """That moment, in its seconds."""
        return time.timestamp() - self._began

    def stop(self) -> None:
        """Send nothing more; what was sent is waited for."""
        self._process.terminate()

    def until(self, at: float) -> None:
        """Wait for that second of it."""
        time.sleep(max(0.0, at - self.now()))

    def so_far(self) -> str:
        """For a line of progress."""
        return f"{self.now():.0f} s of load"

    def wait(self) -> None:
        """Until every request has ended."""
        if not self.asked:
            self.asked = self._line.recv()
        self._process.join(60)


@contextmanager
def loading(
    stack: Stack, rate: float, seconds: float, burst: Phase | None = None, use_case: str = "calories"
) -> Generator[Load]:
    """A load beside the block; it has ended when the block is left."""
    plan = Plan(rate=rate, duration=seconds, burst=burst, labels_by="none")
    load = Load(stack, plan, use_case)
    try:
        yield load
        load.wait()
    finally:
        load._process.kill()
        load._process.join(30)


def _drive(plan: Plan, base: str, name: str, folders: tuple[Path, ...], line: Connection) -> None:
    use_case = catalog.load(name, folders)
    known = rows.from_simulation(use_case, plan.seed, ROWS, datetime.now(UTC))
    asked: list[Asked] = []
    drive = Drive(use_case, plan, base, asked.append)
    stream = requests(use_case, plan, known)

    async def run() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drive.stop)
        line.send(time.time())
        await drive.run(stream)

    asyncio.run(run())
    line.send(asked)
    line.close()
