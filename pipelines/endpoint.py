"""The running endpoint, as a command of this home asks it: one kept connection, JSON both ways."""

import http.client
import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from pipelines.errors import ServiceAway

SECONDS = 60
AGAIN = frozenset({502, 503, 504})


class Endpoint:
    """A use case's own address."""

    def __init__(self, line: http.client.HTTPConnection, path: str) -> None:
        self._line, self._path = line, path

    def post(self, route: str, body: object) -> tuple[int, dict[str, Any]]:
        """Status and body; ServiceAway when nobody answers at the moment."""
        try:
            self._line.request(
                "POST", f"{self._path}/{route}", json.dumps(body), {"content-type": "application/json"}
            )
            answer = self._line.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as away:
            raise ServiceAway(f"{self._path}/{route} does not answer: {away}") from away
        if answer.status in AGAIN:
            raise ServiceAway(f"{self._path}/{route}: {told['error']['message']}")
        return answer.status, told


@contextmanager
def opened(base: str) -> Generator[Endpoint]:
    """`base` is like `http://127.0.0.1:7400/calories`."""
    at = urlsplit(base)
    line = http.client.HTTPConnection(at.netloc, timeout=SECONDS)
    try:
        yield Endpoint(line, at.path)
    finally:
        line.close()
