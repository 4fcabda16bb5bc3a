"""Check: start the bento as it will be served and compare its answers with the offline model."""

import logging

import numpy as np

from pipelines import metrics, rows
from pipelines.errors import CheckFailed
from pipelines.records import Built, Checked, CheckVerdict
from pipelines.spec import Outputs, UseCase
from pipelines.steps.train import judged_rows
from pipelines.tools import Tools

log = logging.getLogger(__name__)
ROWS = 200


def check(tools: Tools, use_case: UseCase, built: Built) -> Checked:
    """Send real held-out rows and compare every answer (law L5); CheckFailed on the first that differs."""
    candidate = built.registered.gated.candidate
    recorded = tools.evidence.by_key(candidate.training_key)
    if recorded is not None and recorded.check is not None and recorded.check.passed:
        return Checked(built=built, verdict=recorded.check)
    columns = rows.columns_of(use_case, judged_rows(tools, use_case, candidate.snapshot).head(ROWS))
    offline = tools.scorer.offline(tools.tracker.folder(candidate.run_id), columns)
    answered = tools.builder.ask(use_case, built.tag, rows.requests_of(use_case, columns))
    verdict = compare(use_case, offline, answered)
    tools.evidence.amend(candidate.training_key, check=verdict)
    told = {"touchline.check": verdict.reason, "touchline.bento": built.tag}
    tools.tracker.note(candidate.run_id, told)
    log.info("check: %s", verdict.reason)
    if not verdict.passed:
        raise CheckFailed(f"{built.tag}: {verdict.reason}")
    return Checked(built=built, verdict=verdict)


def compare(use_case: UseCase, offline: Outputs, answered: Outputs) -> CheckVerdict:
    """Largest difference over all outputs and rows, as parity is meant, against the use case's."""
    apart = max(metrics.apart(answered[name], values) for name, values in offline.items())
    n = len(next(iter(offline.values())))
    reason = f"{n} rows, largest difference {apart:.2g}, allowed {use_case.parity:g}"
    return CheckVerdict(
        passed=apart <= use_case.parity,
        reason=reason,
        rows=n,
        largest_difference=apart if np.isfinite(apart) else None,
    )
