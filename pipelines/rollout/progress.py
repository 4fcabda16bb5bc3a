"""A rollout's own way, by its plan and its verdicts."""

from collections.abc import Callable

from pipelines.rollout.changes import back, over
from pipelines.rollout.serving import (
    PLATFORM,
    START_LIMIT,
    Change,
    Place,
    Seen,
    Serving,
    advanced,
    noted,
    told_of,
    turned,
)
from pipelines.rollout.stages import Looked, Rollout, approval_of
from pipelines.rollout.swaps import start


def progress(serving: Serving, seen: Seen) -> Change | None:
    """What plan and verdict say."""
    rollout = serving.rollout
    if rollout is None or (serving.alias_due and rollout.stage == "watch"):
        return None
    if rollout.stage != "full" and rollout.plan != seen.plan:
        told = told_of(serving, "its plan was changed: what the stage counts begins anew")
        return Change(advanced(serving, rollout=rollout.under(seen.plan, seen.now)), told, kind="rollout")
    bad = _bad_news(serving, seen, rollout)
    if bad is not None or rollout.held is not None:
        return bad
    return WAYS[rollout.stage](serving, seen, rollout)


def _bad_news(serving: Serving, seen: Seen, rollout: Rollout) -> Change | None:
    """A bad verdict, or a canary whose place stays away: also while a person holds the rollout."""
    looked = _verdict(seen, rollout)
    if looked is not None and looked.verdict.verdict == "ROLLBACK":
        end = back if rollout.stage == "watch" else over
        change = end(serving, seen, rollout, looked.verdict.why, PLATFORM)
        return change and change._replace(looked=looked)
    canaries = {place.line for place in serving.of("canary")}
    if canaries and canaries <= seen.unwell:
        return over(serving, seen, rollout, "its place does not get ready any more", PLATFORM)
    return None


def _verdict(seen: Seen, rollout: Rollout) -> Looked | None:
    """The newest one, if it is about this stage."""
    looked = seen.looked
    fits = looked is not None and rollout.judged and (looked.began, looked.since) == (rollout.began, rollout.since)
    return looked if fits else None


def _prepare(serving: Serving, seen: Seen, rollout: Rollout) -> Change | None:
    """One place of the challenger comes; when it is ready it is the canary, with no weight yet."""
    coming = serving.of("coming", rollout.version)
    if serving.of("canary", rollout.version) or (coming and all(place.line in seen.ready for place in coming)):
        places = turned(serving.places, seen.now, ("coming", rollout.version, "canary"))
        return _on(serving.model_copy(update={"places": places}), seen, rollout, "its place is ready")
    if not coming:
        return start(serving, seen, rollout.version, 1)
    return _late(serving, seen, rollout, coming)


def _late(serving: Serving, seen: Seen, rollout: Rollout, coming: tuple[Place, ...]) -> Change | None:
    if seen.now - coming[0].since <= START_LIMIT:
        return None
    return over(serving, seen, rollout, f"a place of it was not ready within {START_LIMIT.seconds} s", PLATFORM)


def _step(serving: Serving, seen: Seen, rollout: Rollout) -> Change | None:
    """The next stage when this one has lasted and its verdict is good; an end to one that stays undecided."""
    lasted, looked = seen.now - rollout.since, _verdict(seen, rollout)
    if looked is not None and looked.verdict.verdict == "PROMOTE" and lasted >= rollout.least_time:
        change = _on(serving, seen, rollout, looked.verdict.why)
        if change is not None:
            return change._replace(looked=looked)
    if lasted <= rollout.plan.patience:
        return None
    told = f"undecided after {rollout.plan.patience}" + (f": {looked.verdict.why}" if looked else ", nothing seen")
    if rollout.plan.undecided == "rollback":
        return over(serving, seen, rollout, told, PLATFORM)
    return Change(noted(serving, held=told), told_of(serving, f"held: {told}"), kind="held", looked=looked)


def _on(serving: Serving, seen: Seen, rollout: Rollout, why: str) -> Change | None:
    """Into the next stage, unless cap, approval or the want of a difference stand before it."""
    following = rollout.at(*rollout.following(), seen.now)
    if following.stage == "full" and _no_better(seen, rollout):
        return _no_difference(serving, seen, rollout)
    if _capped(seen, rollout, following):
        return None
    if _needs_approval(following) and not rollout.approved:
        asks = approval_of(following.label)
        told = told_of(serving, f"waits for {asks} (`touchline rollout approve {serving.use_case}`): {why}")
        return None if rollout.asks else Change(noted(serving, asks=asks), told, kind="held")
    told = told_of(serving, f"{rollout.label} → {following.label}: {why}")
    return Change(advanced(serving, rollout=following), told, kind="rollout")


def _no_better(seen: Seen, rollout: Rollout) -> bool:
    looked = _verdict(seen, rollout)
    return rollout.plan.no_difference == "rollback" and looked is not None and not looked.verdict.better


def _no_difference(serving: Serving, seen: Seen, rollout: Rollout) -> Change | None:
    """Not worse, and not shown to be better: given up as soon as it is shown to be the same."""
    looked = _verdict(seen, rollout)
    if looked is None or not looked.verdict.same:
        return None
    return over(
        serving, seen, rollout, f"no difference to version {rollout.against}: {looked.verdict.why}", PLATFORM
    )


def _capped(seen: Seen, rollout: Rollout, following: Rollout) -> bool:
    """Until a horizon has passed since its first request nobody knows what it cost."""
    percent = 100.0 if following.stage == "full" else following.percent
    known = rollout.exposed_since is not None and seen.now - rollout.exposed_since >= seen.horizon
    return percent > rollout.plan.cap and not known


def _needs_approval(following: Rollout) -> bool:
    if following.stage == "canary":
        return following.plan.stages[following.step].approval
    return following.stage == "full" and following.plan.full_approval


def _fill(serving: Serving, seen: Seen, rollout: Rollout) -> Change | None:
    """As many places as serve the champion; when all are ready every request is theirs."""
    mine = [place for place in serving.places if place.version == rollout.version and place.role != "leaving"]
    if len(mine) < seen.replicas:
        return start(serving, seen, rollout.version, seen.replicas - len(mine))
    coming = serving.of("coming", rollout.version)
    if not all(place.line in seen.ready for place in mine):
        return _late(serving, seen, rollout, coming) if coming else None
    places = turned(
        serving.places,
        seen.now,
        ("coming", rollout.version, "stable"),
        ("canary", rollout.version, "stable"),
        ("stable", rollout.against, "previous"),
    )
    changed = advanced(
        serving,
        places=places,
        version=rollout.version,
        rollout=rollout.at("watch", 0, seen.now),
        alias_due=seen.champion != rollout.version,
        alias_from=seen.champion,
        alias_lost=False,
        challenger_due=seen.challenger == rollout.version,
        challenger_from=seen.challenger,
    )
    told = f"version {rollout.version} serves in place of version {rollout.against}, which stays warm"
    return Change(changed, told, kind="promoted")


def _watch(serving: Serving, seen: Seen, rollout: Rollout) -> Change | None:
    """Until the labels of its first requests must have come."""
    if seen.now - rollout.since < max(rollout.plan.watch, seen.horizon):
        return None
    return over(serving, seen, rollout, "the watch ended without bad news", PLATFORM)


WAYS: dict[str, Callable[[Serving, Seen, Rollout], Change | None]] = {
    "prepared": _prepare,
    "shadow": _step,
    "canary": _step,
    "full": _fill,
    "watch": _watch,
}
