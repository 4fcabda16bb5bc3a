"""What the proxy is told: which lines answer for which use case."""

from datetime import timedelta
from typing import Literal, NamedTuple, Protocol

LINES = ("a", "b", "c", "d", "e", "f", "g", "h")
"""Every use case has these lines from the start, so that a change is never one of structure."""
Role = Literal["stable", "canary", "previous"]


class Line(NamedTuple):
    """One place behind the proxy."""

    name: str
    """One of LINES."""
    port: int | None
    """None: nothing runs there."""
    weight: int
    """Stable: its share among the stable lines, 1 to 256. Canary: basis points of all requests. Else 0."""
    role: Role


class Backend(NamedTuple):
    """One use case behind the proxy."""

    use_case: str
    time_limit: timedelta
    body_limit: int
    """Bytes."""
    entity: str
    """Field of a single request that decides between stable and canary when the header is absent."""
    lines: tuple[Line, ...]


class Counters(NamedTuple):
    """What one line did since the proxy started."""

    use_case: str
    line: str
    up: bool
    requests: int
    answered_5xx: int
    connect_errors: int
    response_errors: int
    retries: int
    redispatches: int

    @property
    def failed(self) -> int:
        """Requests that it did not answer well, those too that another line answered then.

        A connection that it refuses is no error to HAProxy once another line is asked, it is a redispatch alone; a
        broken answer is a response error, and a redispatch as well.
        """
        return self.answered_5xx + self.connect_errors + max(self.redispatches, self.response_errors)


class Proxy(Protocol):
    """The way of a request to a place."""

    def write(self, backends: tuple[Backend, ...]) -> None:
        """Write down what is to be; the proxy need not run."""

    def apply(self, backends: tuple[Backend, ...]) -> None:
        """Make it so, without a failed request; raises ServiceAway when the proxy does not answer."""

    def counters(self) -> tuple[Counters, ...]:
        """What each line did; retries hide a dying line from clients, not from here."""
