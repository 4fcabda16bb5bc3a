"""Promote: ask the reconciler to let a checked version serve."""

import logging
from datetime import datetime

from pipelines.records import Checked, Promotion, Wish
from pipelines.spec import UseCase
from pipelines.steps.gate import CHAMPION
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def promote(tools: Tools, use_case: UseCase, checked: Checked, wish: Wish, now: datetime) -> Promotion:
    """Record the request once per candidate; only the reconciler moves the alias.

    A candidate that was asked for before is not asked for again: it served already, and whoever moved the
    champion since then had a reason. Nor is one of older rows than the champion's, as a backfill makes them.
    """
    key = checked.built.registered.gated.candidate.training_key
    version = checked.built.registered.version
    why_not = None if wish.force else _why_not(tools, use_case, checked)
    if why_not is not None:
        log.info(why_not)
        return Promotion(version=version, asked_now=False, reason=why_not)
    tools.evidence.amend(key, promotion_asked_at=now, promotion_settled=None)
    reason = f"version {version} passed gate and check"
    log.info("asked for %s version %s to serve", use_case.name, version)
    return Promotion(version=version, asked_now=True, reason=reason)


def _why_not(tools: Tools, use_case: UseCase, checked: Checked) -> str | None:
    candidate, version = checked.built.registered.gated.candidate, checked.built.registered.version
    recorded = tools.evidence.by_key(candidate.training_key)
    if recorded is not None and recorded.promotion_asked_at is not None:
        return f"nothing new: version {version} was promoted on {recorded.promotion_asked_at:%Y-%m-%d %H:%M:%S %Z}"
    champion = tools.registry.aliases(use_case.name).get(CHAMPION)
    serving = None if champion is None else tools.evidence.by_version(use_case.name, champion)
    if serving is not None and candidate.snapshot.as_of < serving.snapshot.as_of:
        told = f"its rows end {candidate.snapshot.as_of:%Y-%m-%d %H:%M}, those of the champion {champion}"
        return f"version {version} is not asked to serve: {told} {serving.snapshot.as_of:%Y-%m-%d %H:%M}"
    return None
