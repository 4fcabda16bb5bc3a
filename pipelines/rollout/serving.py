"""What serves of one use case, and the next change of it: pure, so that every order of events can be tested.

A swap goes `coming` → `stable`, the old places `stable` → `leaving` → gone. `decide` gives one change at a
time; whoever carries it out records it first (decision 9 of the design: record, proxy, weights, aliases,
processes).
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pipelines.rollout.proxy import LINES
from pipelines.spec import Frozen

DRAIN = timedelta(seconds=5)
"""How long a place that left the proxy may finish what it was asked."""
START_LIMIT = timedelta(minutes=3)
"""How long a new place may take until it answers its golden rows."""


class Place(Frozen):
    """A running copy of a bento behind one line of the proxy."""

    line: str
    port: int
    version: str
    tag: str
    role: Literal["coming", "stable", "leaving"]
    since: datetime


class Serving(Frozen):
    """The recorded state of one use case."""

    use_case: str
    generation: int = 0
    version: str | None = None
    """What clients are answered by."""
    alias_due: bool = False
    """The alias must be set to `version`: the last act of a change."""
    alias_from: str | None = None
    """Where the alias stood when the change was decided; one that a person moved since then is a new wish."""
    places: tuple[Place, ...] = ()

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


class Change(NamedTuple):
    """The next state and what people should know of it."""

    serving: Serving
    why: str
    refused: str | None = None
    """A version that cannot serve and whose request is closed."""


def decide(serving: Serving, seen: Seen) -> Change | None:
    """The next change, or None when what is, is what should be."""
    moved_back = _foreign_alias(serving, seen)
    if moved_back is not None:
        return moved_back
    target = _target(serving, seen)
    if target is not None:
        change = _bring(serving, seen, target)
        if change is not None:
            return change
    return _clear(serving, seen, target)


def _target(serving: Serving, seen: Seen) -> str | None:
    """The wish: an alias that a person moved, else what a flow asked for, else what serves."""
    if not serving.alias_due and seen.champion not in {None, serving.version}:
        return seen.champion
    if seen.asked is not None and seen.asked in seen.bentos:
        return seen.asked
    return serving.version


def _foreign_alias(serving: Serving, seen: Seen) -> Change | None:
    """An alias on a version without gate and check is set back; so is one that was taken away."""
    if serving.alias_due or seen.champion == serving.version:
        return None
    if seen.champion is not None and seen.champion in seen.bentos:
        return None
    if seen.champion is None:
        why = f"the alias champion was removed by hand; set back to version {serving.version}"
    else:
        why = (
            f"the alias champion was moved by hand to version {seen.champion}, which has not passed gate and check"
        )
        why += f"; moved back to version {serving.version}" if serving.version else "; removed"
    return Change(_next(serving, alias_due=True, alias_from=seen.champion), why)


def _bring(serving: Serving, seen: Seen, target: str) -> Change | None:
    """Start what is missing of the target, switch when it is ready, give up when it takes too long."""
    coming, stable = serving.of("coming", target), serving.of("stable", target)
    missing = seen.replicas - len(coming) - len(stable)
    if missing > 0:
        return _start(serving, seen, target, missing)
    if coming and all(place.line in seen.ready for place in coming):
        return _switch(serving, seen, target)
    if coming and seen.now - coming[0].since > START_LIMIT:
        return _give_up(serving, seen, target)
    return None


def _start(serving: Serving, seen: Seen, target: str, missing: int) -> Change | None:
    lines = [line for line in LINES if line not in {place.line for place in serving.places}]
    room = min(missing, len(lines), len(seen.ports))
    if not room:
        return None
    tag = seen.bentos.get(target)
    if tag is None:
        return None
    new = tuple(
        Place(line=line, port=port, version=target, tag=tag, role="coming", since=seen.now)
        for line, port in zip(lines[:room], seen.ports[:room], strict=True)
    )
    kept = _without(serving.places, (place for place in serving.of("coming") if place.version != target))
    return Change(_next(serving, places=kept + new), f"starting {room} places of version {target}")


def _switch(serving: Serving, seen: Seen, target: str) -> Change:
    places = tuple(_role(place, target, seen.now) for place in serving.places)
    if target == serving.version:
        return Change(_next(serving, places=places), f"a further place of version {target} serves")
    why = f"version {target} serves" + (f" in place of version {serving.version}" if serving.version else "")
    due = seen.champion != target
    return Change(_next(serving, places=places, version=target, alias_due=due, alias_from=seen.champion), why)


def _role(place: Place, target: str, now: datetime) -> Place:
    if place.role == "leaving":
        return place
    role = "stable" if place.version == target else "leaving"
    return place.model_copy(update={"role": role, "since": now})


def _give_up(serving: Serving, seen: Seen, target: str) -> Change:
    kept = _without(serving.places, serving.of("coming", target))
    why = f"version {target} was not ready within {START_LIMIT.seconds} s and does not serve"
    due = serving.alias_due or (target != serving.version and seen.champion == target)
    return Change(_next(serving, places=kept, alias_due=due, alias_from=seen.champion), why, refused=target)


def _clear(serving: Serving, seen: Seen, target: str | None) -> Change | None:
    """Drop places that have left, and coming ones that nobody wants any more."""
    gone = [place for place in serving.of("leaving") if seen.now - place.since > DRAIN]
    gone += [place for place in serving.of("coming") if place.version != target]
    if not gone:
        return None
    told = ", ".join(f"{place.line} (version {place.version})" for place in gone)
    return Change(_next(serving, places=_without(serving.places, gone)), f"stopped {told}")


def _without(places: tuple[Place, ...], gone: Iterable[Place]) -> tuple[Place, ...]:
    lines = {place.line for place in gone}
    return tuple(place for place in places if place.line not in lines)


def _next(serving: Serving, **changed: object) -> Serving:
    return serving.model_copy(update={"generation": serving.generation + 1, **changed})
