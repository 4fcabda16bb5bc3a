"""How a place starts: read the bento's folder, answer the golden rows, open the spool."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipelines.errors import BadRelease
from pipelines.predictions.spool import FolderSpool, Header, NoSpool, Spool
from pipelines.records import Stamp
from pipelines.serving import digest, predictor
from pipelines.serving.hot import Answers, Identity
from pipelines.spec import UseCase


def answers(source: Path, place: str, spool: Path | None) -> Answers:
    """Open what lies in a bento's `src` folder; raises BadRelease or CheckFailed when it must not serve."""
    np.seterr(over="ignore", invalid="ignore")  # an answer that is not finite is refused by name
    stamp = _stamp(source)
    release = source / "release"
    use_case = _use_case(predictor.read_manifest(release).module)
    opened = predictor.load(release, use_case, stamp.release_digest)
    who = Identity(place, stamp, digest.of_folder(source))
    return Answers(use_case, opened, _spool(spool, use_case, opened, who), who, _evidence(source))


def _spool(folder: Path | None, use_case: UseCase, opened: predictor.Predictor, who: Identity) -> Spool:
    if folder is None:
        return NoSpool()
    inputs, outputs = opened.contract.inputs, opened.output_names
    version = who.stamp.model_version
    return FolderSpool(folder, Header(use_case.name, who.place, version, who.bento_digest, inputs, outputs))


def _use_case(module: str) -> UseCase:
    found = importlib.import_module(module).USE_CASE
    if not isinstance(found, UseCase):
        raise BadRelease(f"{module}: USE_CASE is no UseCase")
    return found


def _evidence(source: Path) -> dict[str, Any]:
    """What the bento carries of its training and its gate (contract C4)."""
    try:
        evidence: dict[str, Any] = json.loads((source / "evidence.json").read_bytes())
    except (OSError, ValueError) as wrong:
        raise BadRelease(f"{source / 'evidence.json'}: {wrong}") from None
    return evidence


def _stamp(source: Path) -> Stamp:
    try:
        return Stamp.model_validate_json((source / "stamp.json").read_bytes())
    except (OSError, ValidationError) as wrong:
        raise BadRelease(f"{source / 'stamp.json'}: {wrong}") from None
