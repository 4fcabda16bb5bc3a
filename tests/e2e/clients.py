"""A client that keeps asking, and counts every answer that is not one."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


class Asking:
    """Requests over kept connections, one after the other in each thread, until it is left."""

    def __init__(self, port: int, body: dict[str, Any]) -> None:
        self.port, self.body = port, json.dumps(body)
        self.versions: Counter[str] = Counter()
        self.failed: list[str] = []
        self.ids: list[str] = []
        self.outputs: set[float] = set()
        self._stop = threading.Event()

    def _ask(self) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._stop.is_set():
            try:
                line.request("POST", "/calories/predict", self.body, {"content-type": "application/json"})
                answer = line.getresponse()
                told = answer.read()
            except (OSError, http.client.HTTPException) as broken:
                self.failed.append(repr(broken))
                line.close()
                continue
            if answer.status != 200:
                self.failed.append(f"{answer.status} {told[:200]!r}")
                continue
            said = json.loads(told)
            self.versions[said["model_version"]] += 1
            self.ids.append(said["prediction_id"])
            self.outputs.add(round(said["output"]["calories"], 3))
            time.sleep(0.005)
        line.close()


@contextmanager
def asking(port: int, body: dict[str, Any], threads: int = 4) -> Generator[Asking]:
    """Keep asking while the block runs."""
    client = Asking(port, body)
    running = [threading.Thread(target=client._ask) for _ in range(threads)]
    for one in running:
        one.start()
    try:
        yield client
    finally:
        client._stop.set()
        for one in running:
            one.join()
