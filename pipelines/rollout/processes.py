"""The processes of places, as services of this machine's supervisor."""

from pathlib import Path
from typing import Protocol

from pipelines.machine.services import Service
from pipelines.machine.supervisor import Supervisor
from pipelines.rollout.serving import Place
from pipelines.serving import place as place_of
from pipelines.settings import Settings

PREFIX = "place-"


class Processes(Protocol):
    """Starts and stops places; each call may be repeated."""

    def start(self, use_case: str, place: Place) -> None:
        """Have the place's process run."""

    def restart(self, use_case: str, place: Place) -> None:
        """End the place's process and start it anew."""

    def stop_others(self, wanted: set[tuple[str, str, int]]) -> None:
        """End every place but these (use case, line, port)."""


class SupervisedPlaces:
    """`Processes` under supervisord, each place in the code that its bento carries."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.supervisor = Supervisor(settings.at)
        self.started: set[tuple[str, Place]] = set()

    def start(self, use_case: str, place: Place) -> None:
        """Declare the service; supervisord keeps it alive from then on."""
        if (use_case, place) not in self.started:
            self.supervisor.add(self._service(use_case, place))
            self.started.add((use_case, place))

    def restart(self, use_case: str, place: Place) -> None:
        """For a process that hangs."""
        self.supervisor.restart(name(use_case, place.line, place.port))

    def stop_others(self, wanted: set[tuple[str, str, int]]) -> None:
        """Also those that an earlier reconciler left."""
        kept = {name(*each) for each in wanted}
        for process in self.supervisor.status():
            if process.name.startswith(PREFIX) and process.name not in kept:
                self.supervisor.remove(process.name)

    def _service(self, use_case: str, place: Place) -> Service:
        bento = bento_folder(self.settings, place.tag)
        code = place_of.unpack(bento, self.settings.at.places)
        spool = self.settings.at.spool / use_case / f"{place.line}-{place.port}"
        words, environment = place_of.command(bento, place.port, place.line, spool, code)
        return Service(
            name(use_case, place.line, place.port),
            tuple(words),
            environment,
            grace=place_of.GRACE_SECONDS,
            priority=350,
        )


def name(use_case: str, line: str, port: int) -> str:
    """The service's name of one place."""
    return f"{PREFIX}{use_case}-{line}-{port}"


def bento_folder(settings: Settings, tag: str) -> Path:
    """Where a bento lies in the store."""
    use_case, _, version = tag.partition(":")
    return settings.at.bentoml / "bentos" / use_case / version
