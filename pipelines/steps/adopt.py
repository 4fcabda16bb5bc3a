"""Adopt: find the candidate behind a version, also behind one that somebody registered by hand."""

import logging

from pipelines.errors import BadRelease
from pipelines.records import Candidate
from pipelines.spec import UseCase
from pipelines.steps.train import candidate_of
from pipelines.tools import Tools

log = logging.getLogger(__name__)


def adopt(tools: Tools, use_case: UseCase, version: str) -> Candidate:
    """The recorded training of that version.

    BadRelease where it is not known which rows and which code made it (law L4): nobody could say whether it
    saw the held-out rows.
    """
    run = tools.registry.run_of(use_case.name, version)
    known = {each.run_id: each for each in tools.evidence.candidates(use_case.name)}
    if run is None or run not in known:
        raise BadRelease(
            f"{use_case.name} version {version} comes from no training of this platform, so its rows and its code "
            "are not known: train it by `touchline train`"
        )
    evidence = known[run]
    if evidence.version not in {None, version}:
        raise BadRelease(
            f"{use_case.name} version {version} is the run of version {evidence.version}: use that one"
        )
    if evidence.version is None:
        tools.evidence.amend(evidence.training_key, version=version)
        log.info("%s version %s was registered by hand from run %s", use_case.name, version, run)
    return candidate_of(evidence, found=True)
