"""What serves of one use case, as data, and what is seen of the world before its next change.

A place goes `coming` → `stable` or `canary`; a stable one that was overtaken becomes `previous`, warm until the
watch ends, or `leaving`; then it is gone.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pipelines.rollout.stages import Ended, Looked, Order, Rollout
from pipelines.spec import Frozen, RolloutPlan

DRAIN = timedelta(seconds=5)
"""How long a place that left the proxy may finish what it was asked."""


START_LIMIT = timedelta(minutes=3)
"""How long a new place may take until it answers its golden rows."""


PLATFORM = "reconciler"
"""Who changed what no person did."""


BY_HAND = "somebody, in the registry"


class Place(Frozen):
    """A running copy of a bento behind one line of the proxy."""

    line: str
    port: int
    version: str
    tag: str
    role: Literal["coming", "stable", "canary", "previous", "leaving"]
    since: datetime


class Serving(Frozen):
    """The recorded state of one use case."""

    use_case: str
    generation: int = 0
    version: str | None = None
    """What clients are answered by, but for a canary's share."""
    alias_due: bool = False
    """The alias champion must be set to `version`: the last act of a change."""
    alias_from: str | None = None
    """Where the alias stood when the change was decided; one that a person moved since then is a new wish."""
    challenger_due: bool = False
    """The same for the alias challenger, which must be set to `challenger`."""
    challenger_from: str | None = None
    alias_lost: bool = False
    """The registry has no such version any more, so that no alias can say what serves."""
    places: tuple[Place, ...] = ()
    rollout: Rollout | None = None

    @property
    def challenger(self) -> str | None:
        """Where the alias challenger belongs: on the version under way, until all requests are its own."""
        return self.rollout.version if self.rollout and self.rollout.stage != "watch" else None

    def of(self, role: str, version: str | None = None) -> tuple[Place, ...]:
        """Places of a role, of a version when one is named."""
        return tuple(p for p in self.places if p.role == role and version in {None, p.version})


class Seen(NamedTuple):
    """What was found out just before deciding."""

    now: datetime
    champion: str | None
    """Version under the alias, as the registry has it."""
    asked: str | None
    """Version that a flow asked for and that does not serve yet."""
    bentos: dict[str, str]
    """Tag by version, of those versions only that passed gate and check."""
    ready: frozenset[str]
    """Lines whose place answers that it is ready."""
    ports: tuple[int, ...]
    """Ports free for new places."""
    replicas: int
    plan: RolloutPlan = RolloutPlan()
    horizon: timedelta = timedelta(0)
    challenger: str | None = None
    """Version under the alias challenger."""
    unwell: frozenset[str] = frozenset()
    """Lines whose place has not been ready for long."""
    order: Order | None = None
    """The oldest that waits."""
    looked: Looked | None = None
    """The newest verdict."""
    champion_gone: bool = False
    """The registry has lost the version that serves."""


class Change(NamedTuple):
    """The next state and what people should know of it."""

    serving: Serving
    why: str
    refused: str | None = None
    """A version that cannot serve and whose request is closed."""
    kind: Literal["serving", "refused", "rollout", "held", "rolled back", "promoted"] = "serving"
    """A person is told of the last three."""
    who: str = PLATFORM
    order: Order | None = None
    """The order that is settled by this."""
    ended: Ended | None = None
    looked: Looked | None = None
    """The verdict that decided."""


def under_way(serving: Serving) -> set[str]:
    """The version in rollout."""
    return {serving.rollout.version} if serving.rollout else set()


def turned(places: tuple[Place, ...], now: datetime, *turns: tuple[str, str, str]) -> tuple[Place, ...]:
    """Places of a role and a version in another role."""
    to = {(role, version): then for role, version, then in turns}
    return tuple(
        place.model_copy(update={"role": to[place.role, place.version], "since": now})
        if (place.role, place.version) in to
        else place
        for place in places
    )


def without(places: tuple[Place, ...], gone: Iterable[Place]) -> tuple[Place, ...]:
    """The other places."""
    lines = {place.line for place in gone}
    return tuple(place for place in places if place.line not in lines)


def told_of(serving: Serving, told: str) -> str:
    """What is said of the version in rollout."""
    return f"version {serving.rollout.version}: {told}" if serving.rollout else told


def noted(serving: Serving, **changed: object) -> Serving:
    """The rollout with other facts."""
    return advanced(serving, rollout=serving.rollout and serving.rollout.model_copy(update=changed))


def advanced(serving: Serving, **changed: object) -> Serving:
    """The next generation of the state."""
    return serving.model_copy(update={"generation": serving.generation + 1, **changed})
