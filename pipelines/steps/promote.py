"""Promote: ask the reconciler to let a checked version serve."""

import logging
from datetime import datetime

from pipelines.records import Checked, Promotion
from pipelines.spec import UseCase
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def promote(tools: Tools, use_case: UseCase, checked: Checked, now: datetime) -> Promotion:
    """Record the request once per candidate; only the reconciler moves the alias.

    A candidate that was asked for before is not asked for again: it served already, and whoever moved the
    champion since then had a reason.
    """
    key = checked.built.registered.gated.candidate.training_key
    version = checked.built.registered.version
    recorded = tools.evidence.by_key(key)
    asked_at = None if recorded is None else recorded.promotion_asked_at
    if asked_at is not None:
        reason = f"nothing new: version {version} was promoted on {asked_at:%Y-%m-%d %H:%M:%S %Z}"
        log.info(reason)
        return Promotion(version=version, asked_now=False, reason=reason)
    tools.evidence.amend(key, promotion_asked_at=now)
    reason = f"version {version} passed gate and check"
    log.info("asked for %s version %s to serve", use_case.name, version)
    return Promotion(version=version, asked_now=True, reason=reason)
