"""Build: make the immutable bento of a registered version."""

import logging

from pipelines.errors import BadRelease
from pipelines.records import Built, Registered
from pipelines.spec import UseCase
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def build(tools: Tools, use_case: UseCase, registered: Registered) -> Built:
    """The bento of that version; a second call finds it."""
    candidate = registered.gated.candidate
    model = tools.tracker.folder(candidate.run_id)
    evidence = tools.evidence.by_key(candidate.training_key)
    if evidence is None:
        raise BadRelease(f"{use_case.name}: nothing is recorded of training {candidate.training_key}")
    tag, digest = tools.builder.build(tools.found, model, registered.version, evidence.carried())
    tools.evidence.amend(candidate.training_key, bento_tag=tag, bento_digest=digest)
    log.info("bento %s sha256:%s", tag, digest[:12])
    return Built(registered=registered, tag=tag, digest=digest)
