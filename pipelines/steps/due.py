"""Due: whether enough new labels have come since the last training."""

import logging
from datetime import datetime

from pipelines.records import Due
from pipelines.spec import UseCase
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def due(tools: Tools, use_case: UseCase, now: datetime) -> Due:
    """Compare the labels that came after the newest candidate was made with what the use case asks for."""
    asked = use_case.retrain_after_labels
    trained = [each.created_at for each in tools.evidence.candidates(use_case.name)]
    if asked is None or not trained:
        return Due(
            due=False, labels=0, reason="labels ask for no training" if trained else "nothing was trained yet"
        )
    n = tools.claims.claim(use_case.name, trained[-1], now, asked)
    told = f"{n} new labels, {asked} ask for a training"
    log.info("%s: %s", use_case.name, told)
    return Due(due=n >= asked, labels=n, reason=told)
