"""The last act of `up`: ask the running endpoint once, as a client would."""

import json
import urllib.error
import urllib.request
from typing import Any

from pipelines import catalog
from pipelines.errors import ServiceAway
from pipelines.settings import Settings


def example(settings: Settings) -> dict[str, object]:
    """A request made of the example that each input declares."""
    use_case = catalog.load(settings.use_case, settings.use_cases)
    return {field.name: field.example for field in use_case.inputs}


def ask(settings: Settings) -> dict[str, Any]:
    """The answer through the proxy; ServiceAway while nothing serves yet."""
    url = f"{settings.endpoint}/{settings.use_case}/predict"
    body = json.dumps(example(settings)).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # ruff: ignore[suspicious-url-open-usage]
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # ruff: ignore[suspicious-url-open-usage]
            told: dict[str, Any] = json.load(answer)
            return told
    except (urllib.error.URLError, OSError) as away:
        raise ServiceAway(f"{url} does not answer: {away}") from away


def serves(settings: Settings) -> bool:
    """Whether it answers."""
    try:
        ask(settings)
    except ServiceAway:
        return False
    return True


def as_curl(settings: Settings) -> str:
    """The same request for a shell."""
    url = f"{settings.endpoint}/{settings.use_case}/predict"
    return f"curl -s {url} -H 'content-type: application/json' -d '{json.dumps(example(settings))}'"
