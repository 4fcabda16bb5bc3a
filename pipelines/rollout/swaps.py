"""The places of what serves: as many as declared; swapped without a rollout where a person wishes so."""

from datetime import datetime

from pipelines.rollout.proxy import LINES
from pipelines.rollout.serving import (
    DRAIN,
    START_LIMIT,
    Change,
    Place,
    Seen,
    Serving,
    advanced,
    turned,
    under_way,
    without,
)


def target_of(serving: Serving, seen: Seen) -> str | None:
    """The wish for all requests: an alias that a person moved, the first version of all, else what serves."""
    by_hand = not serving.alias_due and seen.champion not in {None, serving.version}
    if by_hand and seen.champion in seen.bentos and serving.rollout is None:
        return seen.champion
    if serving.version is None and seen.asked in seen.bentos:
        return seen.asked
    return serving.version


def at_rest(serving: Serving) -> bool:
    """No swap by hand is under way."""
    return all(place.version in {serving.version, *under_way(serving)} for place in serving.of("coming"))


def bring(serving: Serving, seen: Seen) -> Change | None:
    """Start what is missing of the target, switch when it is ready, give up when it takes too long."""
    target = target_of(serving, seen)
    if target is None:
        return None
    coming, stable = serving.of("coming", target), serving.of("stable", target)
    missing = seen.replicas - len(coming) - len(stable)
    if missing > 0:
        return start(serving, seen, target, missing)
    if coming and all(place.line in seen.ready for place in coming):
        return _switch(serving, seen, target)
    if coming and seen.now - coming[0].since > START_LIMIT:
        return _give_up(serving, seen, target)
    return None


def start(serving: Serving, seen: Seen, target: str, missing: int) -> Change | None:
    """So many further places of a version, as far as there is room."""
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
    wanted = {target, serving.version, *under_way(serving)}
    kept = tuple(place for place in serving.places if place.role != "coming" or place.version in wanted)
    return Change(advanced(serving, places=kept + new), f"starting {room} places of version {target}")


def _switch(serving: Serving, seen: Seen, target: str) -> Change:
    if target == serving.version:
        places = turned(serving.places, seen.now, ("coming", target, "stable"))
        return Change(advanced(serving, places=places), f"a further place of version {target} serves")
    places = tuple(_role(place, target, seen.now) for place in serving.places)
    why = f"version {target} serves" + (f" in place of version {serving.version}" if serving.version else "")
    due = seen.champion != target
    changed = advanced(
        serving, places=places, version=target, alias_due=due, alias_from=seen.champion, alias_lost=False
    )
    return Change(changed, why)


def _role(place: Place, target: str, now: datetime) -> Place:
    if place.role == "leaving":
        return place
    return place.model_copy(update={"role": "stable" if place.version == target else "leaving", "since": now})


def _give_up(serving: Serving, seen: Seen, target: str) -> Change:
    kept = without(serving.places, serving.of("coming", target))
    why = f"version {target} was not ready within {START_LIMIT.seconds} s and does not serve"
    due = serving.alias_due or (target != serving.version and seen.champion == target)
    return Change(advanced(serving, places=kept, alias_due=due, alias_from=seen.champion), why, refused=target)


def clear(serving: Serving, seen: Seen) -> Change | None:
    """Drop places that have left, and coming ones that nobody wants any more."""
    target = target_of(serving, seen)
    gone = [place for place in serving.of("leaving") if seen.now - place.since > DRAIN]
    gone += [place for place in serving.of("coming") if place.version not in {target, *under_way(serving)}]
    if not gone:
        return None
    told = ", ".join(f"{place.line} (version {place.version})" for place in gone)
    return Change(advanced(serving, places=without(serving.places, gone)), f"stopped {told}")
