"""What is struck, and how: each fault is data. Only processes that the supervisor or a keeper knows are struck."""

import time
from collections.abc import Callable
from typing import NamedTuple

from pipelines.machine.keeper import Seen
from tests.chaos.disk import filled
from tests.chaos.live import NAME, Live, frozen, kill, until

AWAY_SECONDS = 30.0
"""How long a service that is away stays away."""


class Skipped(Exception):
    """The fault cannot be made on this machine; the message says why."""


class Fault(NamedTuple):
    """One thing that happens to a running system."""

    name: str
    strike: Callable[[Live], None]
    """Does it; comes back when it is over, or when only waiting can mend it."""
    outage: bool = False
    """It takes away what every answer needs: a typed refusal is no breach then."""
    lasts: float = 0.0
    """Seconds of it that are no part of the recovery."""


def service(name: str) -> Callable[[Live], None]:
    """Kill the service's own process, below its keeper."""

    def strike(live: Live) -> None:
        kill(live.tree(name)[:1])

    return strike


def whole(name: str) -> Callable[[Live], None]:
    """Kill the service and all below it at once."""

    def strike(live: Live) -> None:
        kill(live.tree(name))

    return strike


def keeper_of(name: str) -> Callable[[Live], None]:
    """Kill the keeper before a service."""

    def strike(live: Live) -> None:
        kill([live.keeper_of(name)])

    return strike


def of(group: Callable[[Live], list[Seen]]) -> Callable[[Live], None]:
    """Kill whoever is in a group at the moment."""

    def strike(live: Live) -> None:
        kill(group(live))

    return strike


def a_command(live: Live) -> list[Seen]:
    """The command that is under way."""
    return [one for command in live.commands for one in command.seen()]


def a_coming_place(live: Live) -> list[Seen]:
    """One that starts for a swap; it is recorded before its process is there."""
    until(lambda: live.book.serving(NAME).of("coming"), "a place to be on its way", 60)
    place = live.book.serving(NAME).of("coming")[0]
    name = f"place-{NAME}-{place.line}-{place.port}"
    until(lambda: live.tree(name), f"{name} to start", 60)
    return live.tree(name)[:1]


def a_place_as(role: str) -> Callable[[Live], list[Seen]]:
    """One that a rollout has taken for that role."""

    def find(live: Live) -> list[Seen]:
        place = next(each for each in live.book.serving(NAME).places if each.role == role)
        return live.tree(f"place-{NAME}-{place.line}-{place.port}")[:1]

    return find


def away(name: str) -> Callable[[Live], None]:
    """Stop a service for a while: it holds its port and answers nobody."""

    def strike(live: Live) -> None:
        with frozen(live.tree(name)):
            time.sleep(AWAY_SECONDS)

    return strike


def database_stopped(live: Live) -> None:
    """Stop the database in good order, and start it again after a while: its port is closed meanwhile."""
    live.supervisor._call("stopProcess", "postgres")
    try:
        time.sleep(AWAY_SECONDS)
    finally:
        live.supervisor._call("startProcess", "postgres")


def proxy_restarted(live: Live) -> None:
    """As a person does it."""
    live.supervisor.restart("proxy")


def supervisor_killed(live: Live) -> None:
    """supervisord alone: its keepers end their services; then `up`."""
    everything = live.everything()
    kill(everything[:1])
    live.stack.run("up", "--detach")


def reboot(live: Live) -> None:
    """Everything at once, as when the power goes; then `up`."""
    kill(live.everything())
    live.stack.run("up", "--detach")


# --- a full disk --------------------------------------------------------------------------------------------


def disk_full(live: Live) -> None:
    """Requests are refused by name, an ingest says what is wrong; then there is room again."""
    if live.no_disk:
        raise Skipped(live.no_disk)
    live.drop()
    with filled(live.settings.home):
        until(lambda: any("log_full" in told for told in live.requests(True).failures), "a refusal", 60)
        told = live.stack.run("ingest", code=75)
    if "No space left" not in told:
        raise AssertionError(f"the message does not say that the disk is full: {told[-300:]}")
    live.stack.run("ingest")


SERVICES = (
    "reconciler",
    "judge",
    "shipper",
    "watcher",
    "mlflow",
    "airflow-api-server",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
    "postgres",
)
FAULTS = {
    each.name: each
    for each in (
        *(Fault(name, service(name)) for name in SERVICES),
        Fault("place", of(a_place_as("stable"))),
        Fault("canary", of(a_place_as("canary"))),
        Fault("previous place", of(a_place_as("previous"))),
        Fault("coming place", of(a_coming_place)),
        Fault("proxy", service("proxy"), outage=True),
        Fault("scheduler, all of it", whole("airflow-scheduler")),
        Fault("scheduler's keeper", keeper_of("airflow-scheduler")),
        Fault("database's keeper", keeper_of("postgres")),
        Fault("executor's worker", of(Live.workers)),
        Fault("task", of(Live.tasks)),
        Fault("command", of(a_command)),
        Fault("nobody", lambda live: None),
        Fault("database away 30 s", database_stopped, lasts=AWAY_SECONDS),
        Fault("database hangs 30 s", away("postgres"), lasts=AWAY_SECONDS),
        Fault("mlflow away 30 s", away("mlflow"), lasts=AWAY_SECONDS),
        Fault("proxy restarted", proxy_restarted, outage=True),
        Fault("supervisord", supervisor_killed, outage=True),
        Fault("reboot", reboot, outage=True),
        Fault("disk full", disk_full, outage=True),
    )
}
