"""BentoML: builds a version's bento, and asks it as clients will."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bentos import build as bento
from pipelines.catalog import Found
from pipelines.errors import CheckFailed
from pipelines.serving import place
from pipelines.spec import Outputs, UseCase

READY_SECONDS = 180.0
ASK_SECONDS = 30.0


class BentoBuilder:
    """`Builder` with a store of bentos on disk."""

    def __init__(self, store: Path, places: Path, lock: Path) -> None:
        self.store, self.places, self.lock = store, places, lock

    def build(self, found: Found, model: Path, version: str, evidence: Mapping[str, Any]) -> tuple[str, str]:
        """(tag, digest) of the bento; the same files give the same bento."""
        built = bento.build(model, found.name, version, self.store, self.lock, evidence)
        return built.tag, built.digest

    def ask(self, use_case: UseCase, tag: str, rows: Sequence[Mapping[str, object]]) -> Outputs:
        """Answers of a place that is started for this alone, with a spool of its own.

        Every row is asked in batches and every tenth also alone: both ways must say the same.
        """
        folder = self.store / "bentos" / tag.replace(":", "/")
        with (
            TemporaryDirectory(prefix="touchline-check-") as made,
            _started(folder, self.places, Path(made)) as url,
        ):
            answers = [
                each
                for batch in _batches(use_case, rows)
                for each in _post(f"{url}/predict/batch", batch)["predictions"]
            ]
            for number in range(0, len(rows), 10):
                alone = _post(f"{url}/predict", rows[number])["output"]
                if alone != answers[number].get("output"):
                    raise CheckFailed(f"{tag}: row {number} is {alone} alone and {answers[number]} in a batch")
        refused = [each for each in answers if "output" not in each]
        if refused:
            raise CheckFailed(f"{tag}: refuses rows that it was trained on: {refused[0]}")
        names = answers[0]["output"]
        return {name: np.array([each["output"][name] for each in answers], np.float64) for name in names}


def _batches(use_case: UseCase, rows: Sequence[Mapping[str, object]]) -> Generator[dict[str, object]]:
    size = min(100, use_case.serving.batch_limit)
    return ({"rows": list(rows[start : start + size])} for start in range(0, len(rows), size))


@contextmanager
def _started(folder: Path, places: Path, made: Path) -> Generator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words, environment = place.command(folder, port, "check", made / "spool", place.unpack(folder, places))
    with (made / "log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_ready(process, port, folder, made / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(place.GRACE_SECONDS + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], port: int, folder: Path, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not place.is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise CheckFailed(f"{folder.name} does not get ready: {log.read_text()[-800:]}")
        time.sleep(0.1)


def _post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # ruff: ignore[suspicious-url-open-usage]
    try:
        with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:  # ruff: ignore[suspicious-url-open-usage]
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        raise CheckFailed(f"{url}: {refused.code} {refused.read().decode()[:400]}") from refused
