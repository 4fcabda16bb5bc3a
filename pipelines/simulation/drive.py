"""Sends a stream at an endpoint: requests when they are meant to go, labels when they are due."""

import asyncio
import heapq
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from pipelines.errors import BadSettings, ServiceAway
from pipelines.predictions.sums import Figure, Scored, Sums
from pipelines.simulation.plan import Plan, Request, Told
from pipelines.spec import Frozen, UseCase

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
LINES = 256
"""Connections at most; what waits for one is late, and counted so."""
LABELS_AT_ONCE = 500
REFRESH_SECONDS = 0.5
RECENT = 2000
"""Requests whose latencies progress tells: to sort all of them twice a second would make late what is due."""
ANSWER_SECONDS = 60


class Summary(Frozen):
    """What came of it, so far or in the end."""

    seconds: float
    requests: int
    sent: int
    """Rows."""
    answered: int
    refused: dict[str, int]
    """Rows that got an error, by its code; `unreachable`: nobody answered."""
    labels: int
    """Taken in."""
    labels_lost: int
    labels_waiting: int
    labels_refused: dict[str, int]
    latency_ms: dict[str, float]
    """p50, p95, p99 and the longest, from when a request was meant to go to its answer (late starts count); so far
    of the newest ones."""
    mean_loss: Figure | None
    metrics: dict[str, Figure | None]
    """Of the answered rows by what really happened, told or not."""
    interrupted: bool = False


class Asked(NamedTuple):
    """One request."""

    at: float
    """Seconds from the beginning, when it was meant to go."""
    seconds: float
    """From then to its answer."""
    codes: tuple[str, ...]
    """Of its rows that got an error."""
    role: str | None
    """Of the place that answered, as the proxy says; None where it did not."""
    key: str | None
    """The entity of a single request: by it the proxy decides between the champion and a canary."""


class _Due(NamedTuple):
    at: float
    number: int
    label: dict[str, Any]


class Drive:
    """One run."""

    def __init__(
        self, use_case: UseCase, plan: Plan, base: str, note: Callable[[Asked], None] = lambda _: None
    ) -> None:
        """`base` is the use case's own address, like `http://127.0.0.1:7400/calories`; on this machine.

        `note` is told of each request when it has ended.
        """
        if urlsplit(base).hostname not in LOOPBACK:
            raise BadSettings(f"{base}: only an endpoint of this machine is simulated at")
        self._use_case, self._plan, self._base = use_case, plan, base
        self._sums = Sums(use_case)
        self._quality = np.zeros(self._sums.width)
        self._unscored: list[tuple[dict[str, float], float]] = []
        self._note = note
        self._seconds = array("d")
        """Of each request that has ended, in their order."""
        self._due: list[_Due] = []
        self._refused: Counter[str] = Counter()
        self._labels_refused: Counter[str] = Counter()
        self._requests = self._sent = self._answered = self._labels = self._lost = 0
        self._began = 0.0
        self._over = False
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()

    def _summary(self, seconds: "array[float]") -> Summary:
        self._score()
        loop = asyncio.get_running_loop()
        return Summary(
            seconds=round(loop.time() - self._began, 3),
            requests=self._requests,
            sent=self._sent,
            answered=self._answered,
            refused=dict(self._refused),
            labels=self._labels,
            labels_lost=self._lost,
            labels_waiting=len(self._due),
            labels_refused=dict(self._labels_refused),
            latency_ms=_latency(seconds),
            mean_loss=self._sums.loss(self._quality),
            metrics=self._sums.metrics(self._quality),
            interrupted=self._stopped.is_set(),
        )

    async def run(self, stream: Iterator[Request], watch: Callable[[Summary], None] = lambda _: None) -> Summary:
        """Send everything, then the labels that are still due; ServiceAway when nobody answered at all."""
        lines = aiohttp.TCPConnector(limit=LINES)
        patience = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(connector=lines, timeout=patience) as session:
            await self._look(session)
            self._began = asyncio.get_running_loop().time()
            watching = asyncio.create_task(self._watch(watch))
            telling = asyncio.create_task(self._tell(session))
            try:
                await self._send(session, stream)
                while self._due and not self._stopped.is_set():
                    await self._pause(0.05)
            finally:
                self._over = True
                watching.cancel()
                await telling
            return self._summary(self._seconds)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def _pause(self, seconds: float) -> None:
        """Until then, or until it is stopped."""
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return

    async def _look(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.get(f"{self._base}/model") as answer:
                told = await answer.text()
                if answer.status != 200:
                    raise ServiceAway(f"{self._base}/model: {answer.status} {told[:200]}")
        except aiohttp.ClientError as away:
            raise ServiceAway(f"{self._base} does not answer: {away}") from away

    async def _watch(self, watch: Callable[[Summary], None]) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            watch(self._summary(self._seconds[-RECENT:]))

    async def _send(self, session: aiohttp.ClientSession, stream: Iterator[Request]) -> None:
        """An open loop: a request goes when it is meant to, whether those before it were answered or not."""
        asking: set[asyncio.Task[None]] = set()
        for request in stream:
            wait = request.at - self._now()
            if wait > 0:
                await self._pause(wait)
            if self._stopped.is_set():
                break
            task = asyncio.create_task(self._ask(session, request))
            asking.add(task)
            task.add_done_callback(asking.discard)
            if wait <= 0:
                await asyncio.sleep(0)
        await asyncio.gather(*asking)

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> None:
        self._requests += 1
        self._sent += len(request.rows)
        alone = len(request.rows) == 1 and self._plan.batch == 1
        path, body = ("predict", request.rows[0]) if alone else ("predict/batch", {"rows": request.rows})
        _, told, role = await self._post(session, path, body)
        seconds = self._now() - request.at
        answers = [told] if alone else told.get("predictions", [told] * len(request.rows))
        codes = tuple(answer["error"]["code"] for answer in answers if "error" in answer)
        key = request.rows[0].get(self._use_case.entity) if alone else None
        self._seconds.append(seconds)
        self._note(Asked(request.at, seconds, codes, role, None if key is None else str(key)))
        for row, answer, label in zip(request.rows, answers, request.labels, strict=True):
            self._take(row, answer, label)

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: object
    ) -> tuple[int, dict[str, Any], str | None]:
        try:
            async with session.post(f"{self._base}/{path}", json=body) as answer:
                return answer.status, json.loads(await answer.read()), answer.headers.get("x-slot")
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, {"error": {"code": "unreachable"}}, None

    def _take(self, row: dict[str, Any], answer: dict[str, Any], label: Told) -> None:
        if "error" in answer:
            self._refused[answer["error"]["code"]] += 1
            return
        self._answered += 1
        self._unscored.append((answer["output"], label.actual))
        if label.after is None:
            self._lost += self._plan.labels_by != "none"
        else:
            due = _Due(self._now() + label.after, self._answered, self._label(row, answer, label))
            heapq.heappush(self._due, due)

    def _label(self, row: dict[str, Any], answer: dict[str, Any], label: Told) -> dict[str, Any]:
        if self._plan.labels_by == "id":
            return {"prediction_id": answer["prediction_id"], "actual": label.actual}
        times = {"event_time": row["event_time"]} if "event_time" in row else {}
        return {self._use_case.entity: row[self._use_case.entity], "actual": label.actual, **times}

    async def _tell(self, session: aiohttp.ClientSession) -> None:
        """Until all is over; what is due by then still goes."""
        over = False
        while not over:
            over = self._over
            await self._tell_due(session, self._now())
            await asyncio.sleep(0 if over else 0.05)

    async def _tell_due(self, session: aiohttp.ClientSession, now: float) -> None:
        most = min(LABELS_AT_ONCE, self._use_case.serving.batch_limit)
        while self._due and self._due[0].at <= now:
            some = [heapq.heappop(self._due) for _ in range(min(most, len(self._due))) if self._due[0].at <= now]
            status, told, _ = await self._post(session, "labels", [each.label for each in some])
            if status == 202:
                self._labels += told["accepted"]
                self._labels_refused.update(error["code"] for error in told["errors"])
            else:
                self._labels_refused[told["error"]["code"]] += len(some)

    def _score(self) -> None:
        """What was answered since the last time."""
        some, self._unscored = self._unscored, []
        if some:
            actual = np.array([label for _, label in some])
            scored = Scored([outputs for outputs, _ in some], actual, np.zeros(len(some)))
            self._quality += self._sums.rows(scored).sum(axis=0)


def _latency(seconds: "array[float]") -> dict[str, float]:
    if not seconds:
        return {}
    p50, p95, p99 = np.quantile(seconds, [0.5, 0.95, 0.99]) * 1000
    known = {"p50": p50, "p95": p95, "p99": p99, "max": max(seconds) * 1000}
    return {name: round(float(value), 3) for name, value in known.items()}
