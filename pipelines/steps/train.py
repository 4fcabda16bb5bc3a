"""Train: fit a release on a clean snapshot, once per training key."""

import json
import logging
import shutil
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from pipelines import provenance, rows
from pipelines.records import Candidate, CleanSnapshot, Manifest
from pipelines.serving.predictor import read_manifest
from pipelines.spec import Columns, Outputs, UseCase
from pipelines.steps.snapshot import frames_of
from pipelines.tools import Evidence, RunRecord, Tools

log = logging.getLogger(__name__)
GOLDEN_ROWS = 16


def train(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, now: datetime) -> Candidate:
    """The candidate of that snapshot: trained now, or found when the same training was done before."""
    key = provenance.training_key(tools.found, use_case, snapshot)
    recorded = tools.evidence.by_key(key)
    if recorded is not None:
        log.info("nothing to train: run=%s was trained on the same rows, code and parameters", recorded.run_id)
        return _candidate(recorded, found=True)
    run_id = tools.tracker.find(use_case.name, key) or _train(tools, use_case, snapshot, key)
    recorded = tools.evidence.add(_evidence(tools, use_case, snapshot, key, run_id, now))
    log.info("run=%s metrics=%s", recorded.run_id, recorded.metrics)
    return _candidate(recorded, found=False)


def _candidate(evidence: Evidence, *, found: bool) -> Candidate:
    return Candidate(
        training_key=evidence.training_key,
        run_id=evidence.run_id,
        snapshot=evidence.snapshot,
        metrics=evidence.metrics,
        found=found,
    )


def _evidence(
    tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, key: str, run_id: str, now: datetime
) -> Evidence:
    manifest = read_manifest(tools.tracker.folder(run_id) / "release")
    return Evidence(
        training_key=key,
        use_case=use_case.name,
        run_id=run_id,
        snapshot=snapshot,
        code_digest=provenance.code_digest(tools.found),
        git_commit=provenance.git_commit(),
        lock_digest=provenance.lock_digest(),
        seed=use_case.seed,
        metrics=manifest.metrics,
        created_at=now,
    )


def assembled(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> pl.DataFrame:
    """The use case's rows of a snapshot, one per event."""
    return use_case.assemble(frames_of(tools, use_case, snapshot), snapshot.as_of)


def judged_rows(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> pl.DataFrame:
    """The rows that no model may train on."""
    whole = assembled(tools, use_case, snapshot)
    return whole.filter(rows.held_out(use_case, whole))


def _train(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, key: str) -> str:
    with TemporaryDirectory(prefix="touchline-train-") as made:
        folder = Path(made)
        manifest = _fit(tools, use_case, snapshot, key, folder)
        _copy_code(tools, folder / "code")
        return tools.tracker.log(use_case, _run_record(tools, use_case, snapshot, manifest, folder))


def _fit(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, key: str, folder: Path) -> Manifest:
    whole = assembled(tools, use_case, snapshot)
    learnt, judged = rows.training_rows(use_case, whole), whole.filter(rows.held_out(use_case, whole))
    log.info("training on %d rows, %d held out", learnt.height, judged.height)
    release = folder / "release"
    columns = rows.columns_of(use_case, judged)
    actual = rows.targets_of(use_case, judged)[use_case.target]
    fitted = tools.modeller.fit(
        use_case, rows.columns_of(use_case, learnt), rows.targets_of(use_case, learnt), release
    )
    outputs = tools.modeller.answer(use_case, fitted, release, columns)
    measured = {name: metric(outputs, actual) for name, metric in use_case.metrics.items()}
    known = {"module": tools.found.module, "training_key": key, "snapshot": snapshot.digest, "metrics": measured}
    manifest = fitted.model_copy(update=known)
    (release / "release.json").write_text(manifest.model_dump_json(indent=1))
    (release / "golden.json").write_text(json.dumps(_golden(use_case, columns, outputs), indent=1))
    tools.modeller.draw(use_case, manifest, folder, outputs, actual)
    return manifest


def _golden(use_case: UseCase, columns: Columns, outputs: Outputs) -> dict[str, list[dict[str, Any]]]:
    """The first held-out rows with their answers: what a place must give before it is ready."""
    first = {name: values[:GOLDEN_ROWS] for name, values in columns.items()}
    cells = {name: [float(value) for value in values[:GOLDEN_ROWS]] for name, values in outputs.items()}
    answers = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return {"rows": rows.requests_of(use_case, first), "outputs": answers}


def _copy_code(tools: Tools, folder: Path) -> None:
    """The release carries the code that makes its features (law L5)."""
    for name, file in provenance.code_files(tools.found).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)


def _run_record(
    tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, manifest: Manifest, folder: Path
) -> RunRecord:
    parameters = {
        f"{part.name}.{name}": str(value) for part in use_case.parts for name, value in part.parameters.items()
    }
    return RunRecord(
        training_key=manifest.training_key,
        folder=folder,
        parameters={**parameters, "seed": str(use_case.seed), "features": ", ".join(use_case.feature_names)},
        metrics={name: value for name, value in manifest.metrics.items() if np.isfinite(value)},
        facts={
            "touchline.snapshot": snapshot.digest,
            "touchline.rows": json.dumps(snapshot.rows),
            "touchline.code_digest": provenance.code_digest(tools.found),
            "touchline.git_commit": provenance.git_commit() or "none",
            "touchline.lock_digest": provenance.lock_digest(),
            "touchline.suites": json.dumps(snapshot.suites),
        },
        data=snapshot.digest[:12],
        data_uri=f"{tools.tables_at}@{json.dumps(snapshot.versions)}",
    )
