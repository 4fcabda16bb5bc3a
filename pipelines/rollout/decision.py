"""The next change of what serves: pure, so that every order of events can be tested.

One change at a time; whoever carries it out records it first (decision 9 of the design: record, proxy, weights,
aliases, processes). The wish is, in this order: aliases that a person moved, orders, what a flow asked for, as
many places as declared, the rollout's own plan and verdict.
"""

from collections.abc import Callable

from pipelines.rollout.progress import progress
from pipelines.rollout.serving import Change, Seen, Serving
from pipelines.rollout.swaps import bring, clear
from pipelines.rollout.wishes import challenger_by_hand, champion_by_hand, ordered, requested

RULES: tuple[Callable[[Serving, Seen], Change | None], ...] = (
    champion_by_hand,
    challenger_by_hand,
    ordered,
    requested,
    bring,
    progress,
    clear,
)


def decide(serving: Serving, seen: Seen) -> Change | None:
    """The next change, or None when what is, is what should be."""
    return next((change for rule in RULES if (change := rule(serving, seen)) is not None), None)
