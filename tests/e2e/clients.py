"""A client that keeps asking and labelling, and counts every answer that is not one."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

HEADERS = {"content-type": "application/json"}


class Failure(NamedTuple):
    """A request without a good answer."""

    at: float
    """Of the monotonic clock."""
    told: str
    """With the time of day, as logs have it."""


class Asking:
    """Requests over kept connections, one after the other in each thread, until it is left.

    Every `label_every`-th answer gets its label, every second one of these twice; 0: none.
    """

    def __init__(
        self,
        port: int,
        body: dict[str, Any],
        label_every: int = 0,
        pause: float = 0.02,
        use_case: str = "calories",
    ) -> None:
        self.port, self.body, self.use_case = port, json.dumps(body), use_case
        self.label_every, self.pause = label_every, pause
        self.versions: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.ids: list[str] = []
        self.outputs: set[float] = set()
        self.labelled: dict[str, float] = {}
        """What was told of each prediction whose label was taken in."""
        self._stop = threading.Event()

    @property
    def failed(self) -> list[str]:
        """What came back instead of each good answer."""
        return [each.told for each in self.failures]

    def _work(self) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._stop.is_set():
            said = self._post(line, "predict", self.body, 200)
            if said is not None:
                self._keep(line, said)
            time.sleep(self.pause)
        line.close()

    def _post(self, line: http.client.HTTPConnection, route: str, body: str, good: int) -> dict[str, Any] | None:
        """The answer; None after a failure, which is counted."""
        try:
            line.request("POST", f"/{self.use_case}/{route}", body, HEADERS)
            answer = line.getresponse()
            told = answer.read()
        except (OSError, http.client.HTTPException) as broken:
            self._note(repr(broken))
            line.close()
            return None
        if answer.status != good:
            self._note(f"{answer.status} {told[:200].decode()}")
            return None
        said: dict[str, Any] = json.loads(told)
        return said

    def _note(self, told: str) -> None:
        self.failures.append(Failure(time.monotonic(), f"{told} at {datetime.now(UTC):%H:%M:%S.%f}"))

    def _keep(self, line: http.client.HTTPConnection, said: dict[str, Any]) -> None:
        self.versions[said["model_version"]] += 1
        self.ids.append(said["prediction_id"])
        self.outputs.add(round(said["output"]["calories"], 3))
        place = len(self.ids)
        if self.label_every and place % self.label_every == 0:
            self._label(line, said["prediction_id"], place)

    def _label(self, line: http.client.HTTPConnection, name: str, place: int) -> None:
        actual = float(place % 300)
        body = json.dumps({"prediction_id": name, "actual": actual})
        for _ in range(1 + place // self.label_every % 2):
            if self._post(line, "labels", body, 202) is not None:
                self.labelled[name] = actual


@contextmanager
def asking(
    port: int,
    body: dict[str, Any],
    threads: int = 4,
    label_every: int = 0,
    pause: float = 0.02,
    use_case: str = "calories",
) -> Generator[Asking]:
    """Keep asking while the block runs."""
    client = Asking(port, body, label_every, pause, use_case)
    running = [threading.Thread(target=client._work) for _ in range(threads)]
    for one in running:
        one.start()
    try:
        yield client
    finally:
        client._stop.set()
        for one in running:
            one.join()
