"""How a rollout begins, goes to all requests by hand, ends, and is taken back after the switch."""

from pipelines.rollout.proxy import LINES
from pipelines.rollout.serving import Change, Seen, Serving, advanced, told_of, turned, without
from pipelines.rollout.stages import Ended, Outcome, Rollout


def begin(serving: Serving, seen: Seen, version: str, why: str, who: str) -> Change:
    """Enter a rollout, where the machine has room for all that it takes."""
    lines = len(LINES) - len(serving.places)
    if min(lines, len(seen.ports)) < seen.replicas:
        told = (
            f"no room for {seen.replicas} places of version {version} beside {len(serving.places)} that are there"
        )
        told += f", with {len(seen.ports)} ports free: fewer TOUCHLINE_REPLICAS make room"
        due = {"challenger_due": seen.challenger == version, "challenger_from": seen.challenger}
        return Change(advanced(serving, **due), told, refused=version, kind="refused", who=who)
    rollout = Rollout(
        version=version, against=str(serving.version), plan=seen.plan, began=seen.now, since=seen.now
    )
    changed = advanced(
        serving, rollout=rollout, challenger_due=seen.challenger != version, challenger_from=seen.challenger
    )
    told = f"version {version} begins its rollout against version {serving.version}: {why}"
    return Change(changed, told, kind="rollout", who=who)


def promote(serving: Serving, seen: Seen, rollout: Rollout, why: str, who: str) -> Change:
    """To all requests at once, whatever the plan waits for."""
    full = rollout.at("full", 0, seen.now).model_copy(update={"held": None})
    told = told_of(serving, f"{rollout.label} → full, by hand: {why}")
    return Change(advanced(serving, rollout=full), told, kind="rollout", who=who)


def over(serving: Serving, seen: Seen, rollout: Rollout, why: str, who: str) -> Change:
    """The rollout ends: before the switch the challenger goes, after it the version that was kept warm."""
    done = rollout.stage == "watch"
    goes = ("previous", rollout.against, "leaving") if done else ("canary", rollout.version, "leaving")
    places = turned(without(serving.places, serving.of("coming", rollout.version)), seen.now, goes)
    changed = advanced(
        serving,
        places=places,
        rollout=None,
        challenger_due=seen.challenger == rollout.version,
        challenger_from=seen.challenger,
    )
    outcome: Outcome = "done" if done else "rolled back"
    told = told_of(serving, f"{'done' if done else f'rolled back in {rollout.label}'}: {why}")
    return Change(changed, told, kind="rollout" if done else "rolled back", who=who, ended=Ended(rollout, outcome))


def back(serving: Serving, seen: Seen, rollout: Rollout, why: str, who: str) -> Change | None:
    """The previous champion, kept warm, takes all requests again; nothing is changed while none of it is ready."""
    if not any(p.line in seen.ready for p in serving.of("previous", rollout.against)):
        return None
    places = turned(
        without(serving.places, serving.of("coming", rollout.version)),
        seen.now,
        ("previous", rollout.against, "stable"),
        ("stable", rollout.version, "leaving"),
    )
    changed = advanced(
        serving,
        places=places,
        version=rollout.against,
        rollout=None,
        alias_due=seen.champion != rollout.against,
        alias_from=seen.champion,
        alias_lost=False,
    )
    told = f"version {rollout.against} serves again in place of version {rollout.version}: {why}"
    return Change(changed, told, kind="rolled back", who=who, ended=Ended(rollout, "rolled back"))
