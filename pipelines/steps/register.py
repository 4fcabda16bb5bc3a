"""Register: make a version of a gated candidate, without an alias."""

import logging

from pipelines.records import Gated, Registered
from pipelines.spec import UseCase
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def register(tools: Tools, use_case: UseCase, gated: Gated) -> Registered:
    """The version of that run; a second call finds it."""
    facts = {
        "touchline.training_key": gated.candidate.training_key,
        "touchline.snapshot": gated.candidate.snapshot.digest,
        "touchline.gate": gated.verdict.reason,
    }
    version = tools.registry.register(use_case, gated.candidate.run_id, facts)
    tools.evidence.amend(gated.candidate.training_key, version=version)
    log.info("%s version %s", use_case.name, version)
    return Registered(gated=gated, version=version)
