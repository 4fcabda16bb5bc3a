"""Where a notice goes: the log always; a webhook; whatever Apprise knows (mail, chat, pagers)."""

import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from pipelines.errors import BadSettings, ServiceAway
from pipelines.tools import Notice, Notifier

log = logging.getLogger(__name__)
SECONDS = 10
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "failure": logging.ERROR}


class LogNotifier:
    """`Notifier`: a line in the log."""

    def notify(self, notice: Notice) -> None:
        """Say it."""
        log.log(LEVELS[notice.severity], "notice %s: %s | %s", notice.key, notice.title, notice.body)


class WebhookNotifier:
    """`Notifier`: the notice as JSON by POST."""

    def __init__(self, url: str) -> None:
        self.url = url

    def notify(self, notice: Notice) -> None:
        """ServiceAway when it was not taken; the address is a secret and not told."""
        body = notice.model_dump_json().encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})  # ruff: ignore[suspicious-url-open-usage]
        try:
            urllib.request.urlopen(request, timeout=SECONDS).close()  # ruff: ignore[suspicious-url-open-usage]
        except (urllib.error.URLError, OSError) as away:
            raise ServiceAway(f"the webhook at {urlsplit(self.url).hostname} does not answer: {away}") from away


class AppriseNotifier:
    """`Notifier`: one address of Apprise's kind, `scheme://…`."""

    def __init__(self, url: str) -> None:
        import apprise

        self.scheme = url.partition(":")[0]
        self.to = apprise.Apprise()
        if not self.to.add(url):
            raise BadSettings(f"TOUCHLINE_NOTIFY: Apprise knows no address like {self.scheme}://…")

    def notify(self, notice: Notice) -> None:
        """ServiceAway when it was not taken."""
        if not self.to.notify(body=notice.body, title=notice.title, notify_type=notice.severity):
            raise ServiceAway(f"the notice was not taken by the {self.scheme}:// address")


class EveryNotifier:
    """`Notifier`: all of them; one that is away keeps none of the others from hearing."""

    def __init__(self, each: Sequence[Notifier]) -> None:
        self.each = each

    def notify(self, notice: Notice) -> None:
        """ServiceAway names those that did not take it, when all were asked."""
        away: list[str] = []
        for one in self.each:
            try:
                one.notify(notice)
            except ServiceAway as reason:
                away.append(str(reason))
        if away:
            raise ServiceAway("; ".join(away))


def of(url: str) -> Notifier:
    """`log:`, `http(s)://…` for a webhook, else an address of Apprise's kind."""
    scheme = url.partition(":")[0]
    if scheme == "log":
        return LogNotifier()
    return WebhookNotifier(url) if scheme in {"http", "https"} else AppriseNotifier(url)
