"""What people and flows wish: aliases that were moved by hand, orders, versions that were asked for."""

from collections.abc import Callable

from pipelines.rollout.changes import back, begin, over, promote
from pipelines.rollout.serving import BY_HAND, PLATFORM, Change, Seen, Serving, advanced, noted, told_of
from pipelines.rollout.stages import Order, Rollout, approval_of
from pipelines.rollout.swaps import at_rest


def champion_by_hand(serving: Serving, seen: Seen) -> Change | None:
    """An alias on a version without gate and check is set back; so is one that was taken away."""
    if serving.alias_due or seen.champion == serving.version:
        return None
    if seen.champion is not None and seen.champion in seen.bentos:
        return _moved(serving, seen, seen.champion)
    if seen.champion is None and seen.champion_gone:
        why = (
            f"version {serving.version} was deleted from the registry; it serves on until another takes its place"
        )
        return None if serving.alias_lost else Change(advanced(serving, alias_lost=True), why)
    return Change(advanced(serving, alias_due=True, alias_from=seen.champion), _moved_back(serving, seen))


def _moved_back(serving: Serving, seen: Seen) -> str:
    if seen.champion is None:
        return f"the alias champion was removed by hand; set back to version {serving.version}"
    told = f"the alias champion was moved by hand to version {seen.champion}, which has not passed gate and check"
    return told + (f"; moved back to version {serving.version}" if serving.version else "; removed")


def _moved(serving: Serving, seen: Seen, to: str) -> Change | None:
    """A person chose: the challenger is promoted, the previous champion comes back, any other ends the rollout."""
    rollout = serving.rollout
    if rollout is None:
        return None
    if rollout.stage == "watch" and to == rollout.against:
        return back(serving, seen, rollout, "the alias champion was moved back by hand", BY_HAND)
    if rollout.stage != "watch" and to == rollout.version:
        told = "the alias champion was set"
        return None if rollout.stage == "full" else promote(serving, seen, rollout, told, BY_HAND)
    return over(serving, seen, rollout, f"the alias champion was moved by hand to version {to}", BY_HAND)


def challenger_by_hand(serving: Serving, seen: Seen) -> Change | None:
    """A checked version under the alias challenger begins its rollout; any other is set back."""
    if serving.challenger_due or seen.challenger == serving.challenger:
        return None
    wished, rollout = seen.challenger, serving.rollout
    fit = wished in seen.bentos and wished != serving.version and serving.version is not None
    if wished is None:
        told = "the alias challenger was removed by hand"
        return None if rollout is None else over(serving, seen, rollout, told, BY_HAND)
    if not fit:
        return _challenger_set_back(serving, seen, wished)
    if rollout is None:
        told = "the alias challenger was set"
        return begin(serving, seen, wished, told, BY_HAND) if at_rest(serving) else None
    if rollout.stage != "watch" or rollout.plan.newer == "replaces":
        return over(serving, seen, rollout, f"the alias challenger was moved by hand to version {wished}", BY_HAND)
    return None


def _challenger_set_back(serving: Serving, seen: Seen, wished: str) -> Change:
    why = "is the champion already" if wished == serving.version else "has not passed gate and check"
    if serving.version is None:
        why = "has no champion to be measured against"
    to = f"moved back to version {serving.challenger}" if serving.challenger else "removed"
    told = f"the alias challenger was set by hand on version {wished}, which {why}; {to}"
    return Change(advanced(serving, challenger_due=True, challenger_from=wished), told)


def ordered(serving: Serving, seen: Seen) -> Change | None:
    """Carry out the oldest order, or refuse it with the reason."""
    order, rollout = seen.order, serving.rollout
    if order is None:
        return None
    if order.kind == "start":
        change = _start_ordered(serving, seen, order)
    elif rollout is None and _is_to_come(serving, seen):
        return None
    elif rollout is None:
        change = _refused(serving, order, "no rollout is under way")
    elif order.version not in {None, rollout.version}:
        change = _refused(
            serving, order, f"it was meant for version {order.version}; {rollout.version} is under way"
        )
    elif order.stage is not None and rollout.asks != approval_of(order.stage):
        change = _refused(serving, order, f"nobody waits for {approval_of(order.stage)} any more")
    else:
        change = ORDERS[order.kind](serving, seen, rollout, order)
    return change._replace(order=order, who=order.who)


def _is_to_come(serving: Serving, seen: Seen) -> bool:
    """Whether a flow has asked for a rollout that only waits for its turn: an order may be about that one."""
    return seen.asked in seen.bentos and serving.version not in {None, seen.asked}


def _start_ordered(serving: Serving, seen: Seen, order: Order) -> Change:
    rollout = serving.rollout
    if order.version not in seen.bentos:
        return _refused(serving, order, f"version {order.version} has not passed gate and check")
    if order.version == serving.version or serving.version is None:
        return _refused(serving, order, f"version {order.version} has nobody to be measured against")
    if rollout is None and at_rest(serving):
        return begin(serving, seen, order.version, order.why, order.who)
    why = f"version {rollout.version} is under way: abort it first" if rollout else "a swap is under way"
    return _refused(serving, order, why)


def _hold(serving: Serving, seen: Seen, rollout: Rollout, order: Order) -> Change:
    told = f"held: {order.why}"
    return Change(noted(serving, held=f"{order.who}: {order.why}"), told_of(serving, told), kind="held")


def _resume(serving: Serving, seen: Seen, rollout: Rollout, order: Order) -> Change:
    if rollout.held is None:
        return _refused(serving, order, "nothing is held")
    return Change(noted(serving, held=None), told_of(serving, f"goes on: {order.why}"), kind="rollout")


def _approve(serving: Serving, seen: Seen, rollout: Rollout, order: Order) -> Change:
    if rollout.asks is None:
        return _refused(serving, order, "nothing waits for an approval")
    return Change(
        noted(serving, approved=True, asks=None), told_of(serving, f"approved: {order.why}"), kind="rollout"
    )


def _promote(serving: Serving, seen: Seen, rollout: Rollout, order: Order) -> Change:
    if rollout.stage in {"full", "watch"}:
        return _refused(serving, order, "it gets all requests already")
    return promote(serving, seen, rollout, order.why, order.who)


def _abort(serving: Serving, seen: Seen, rollout: Rollout, order: Order) -> Change:
    if rollout.stage == "watch":
        return _refused(serving, order, "it is the champion already; `rollback` brings the previous one back")
    return over(serving, seen, rollout, f"aborted: {order.why}", order.who)


def _roll_back(serving: Serving, seen: Seen, rollout: Rollout, order: Order) -> Change:
    if rollout.stage != "watch":
        return over(serving, seen, rollout, order.why, order.who)
    change = back(serving, seen, rollout, order.why, order.who)
    return change or _refused(serving, order, "no place of the previous champion is ready; ask again")


ORDERS: dict[str, Callable[[Serving, Seen, Rollout, Order], Change]] = {
    "hold": _hold,
    "resume": _resume,
    "approve": _approve,
    "promote": _promote,
    "abort": _abort,
    "rollback": _roll_back,
}


def _refused(serving: Serving, order: Order, why: str) -> Change:
    return Change(advanced(serving), f"{order.kind} refused: {why}", kind="refused")


def requested(serving: Serving, seen: Seen) -> Change | None:
    """What a flow asked for becomes the challenger, when there is a champion and its turn has come."""
    asked, rollout = seen.asked, serving.rollout
    if asked is not None and asked == serving.version:
        return Change(advanced(serving), f"version {asked} serves already", refused=asked)
    if asked is None or not _is_to_come(serving, seen) or not at_rest(serving):
        return None
    if rollout is None:
        return begin(serving, seen, asked, f"version {asked} passed gate and check", PLATFORM)
    if rollout.plan.newer == "replaces" and rollout.version != asked:
        return over(serving, seen, rollout, f"version {asked} is newer and replaces it", PLATFORM)
    return None
