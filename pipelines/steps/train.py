"""Train: fit a release on a clean snapshot, once per training key."""

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import provenance, rows, slices
from pipelines.provenance import Provenance
from pipelines.records import Candidate, CleanSnapshot, Manifest, Wish
from pipelines.scratch import scratch
from pipelines.serving.predictor import read_manifest
from pipelines.spec import Columns, Outputs, UseCase
from pipelines.steps import pieces
from pipelines.steps.snapshot import frames_of
from pipelines.tools import Evidence, RunRecord, Tools

log = logging.getLogger(__name__)
GOLDEN_ROWS = 16
Values = NDArray[np.float64]


def train(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, wish: Wish, now: datetime) -> Candidate:
    """The candidate of that snapshot: trained now, or found when the same training was done before."""
    made_by = provenance.of(tools.found, tools.lock)
    key = provenance.training_key(use_case, snapshot, made_by)
    recorded = tools.evidence.by_key(key)
    if recorded is not None:
        log.info("nothing to train: run=%s was trained on the same rows, code and parameters", recorded.run_id)
        return candidate_of(recorded, found=True)
    run_id = tools.tracker.find(use_case.name, key) or _train(tools, use_case, snapshot, key, made_by)
    recorded = tools.evidence.add(_evidence(tools, use_case, snapshot, key, made_by, run_id, now))
    tools.tracker.note(run_id, {"touchline.reason": wish.reason})
    log.info("run=%s metrics=%s", recorded.run_id, recorded.metrics)
    return candidate_of(recorded, found=False)


def candidate_of(evidence: Evidence, *, found: bool) -> Candidate:
    """What later steps need to know of a recorded candidate."""
    return Candidate(
        training_key=evidence.training_key,
        run_id=evidence.run_id,
        snapshot=evidence.snapshot,
        metrics=evidence.metrics,
        found=found,
    )


def _evidence(
    tools: Tools,
    use_case: UseCase,
    snapshot: CleanSnapshot,
    key: str,
    made_by: Provenance,
    run_id: str,
    now: datetime,
) -> Evidence:
    manifest = read_manifest(tools.tracker.folder(run_id) / "release")
    return Evidence(
        training_key=key,
        use_case=use_case.name,
        run_id=run_id,
        snapshot=snapshot,
        **made_by._asdict(),
        seed=use_case.seed,
        metrics=manifest.metrics,
        created_at=now,
    )


def assembled(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> pl.DataFrame:
    """The use case's rows of a snapshot, one per event, in the order of their time where it matters."""
    whole = use_case.assemble(frames_of(tools, use_case, snapshot), snapshot.as_of)
    if use_case.event_time is None:
        return whole
    return whole.sort(use_case.event_time, use_case.entity)


def judged_rows(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> pl.DataFrame:
    """The rows that no model may train on."""
    if pieces.too_many(tools, use_case, snapshot):
        with pieces.parted(tools, use_case, snapshot) as (_, judged):
            return pl.read_parquet([*judged.files])
    whole = assembled(tools, use_case, snapshot)
    return whole.filter(rows.held_out(use_case, whole))


def _train(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, key: str, made_by: Provenance) -> str:
    with scratch("train") as folder:
        provenance.copy_code(tools.found, folder / "code")
        manifest = _fit(tools, use_case, snapshot, key, folder)
        return tools.tracker.log(use_case, _run_record(tools, use_case, snapshot, manifest, made_by, folder))


class _Fitted(NamedTuple):
    """A release with its answers to the held-out rows."""

    manifest: Manifest
    columns: Columns
    """Of the held-out rows: all inputs, or those that slices need."""
    first: Columns
    """All inputs of the first of them."""
    outputs: Outputs
    actual: Values


def _fit(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, key: str, folder: Path) -> Manifest:
    release = folder / "release"
    by_pieces = pieces.too_many(tools, use_case, snapshot)
    fitted = (_fit_by_pieces if by_pieces else _fit_in_memory)(tools, use_case, snapshot, release)
    known = {
        "module": tools.found.module,
        "training_key": key,
        "snapshot": snapshot.digest,
        "metrics": measure(use_case, fitted.outputs, fitted.actual),
    }
    manifest = fitted.manifest.model_copy(update=known)
    _tell_slices(use_case, fitted.columns, fitted.outputs, fitted.actual, folder / "tables")
    (release / "release.json").write_text(manifest.model_dump_json(indent=1))
    (release / "golden.json").write_text(json.dumps(_golden(use_case, fitted.first, fitted.outputs), indent=1))
    tools.modeller.draw(use_case, manifest, folder, fitted.outputs, fitted.actual)
    return manifest


def _fit_in_memory(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, release: Path) -> _Fitted:
    learnt, judged = rows.parted(use_case, assembled(tools, use_case, snapshot))
    log.info("training on %d rows, %d held out", learnt.height, judged.height)
    columns = rows.columns_of(use_case, judged)
    actual = rows.targets_of(use_case, judged)[use_case.target]
    manifest = tools.modeller.fit(
        use_case, rows.columns_of(use_case, learnt), rows.targets_of(use_case, learnt), release
    )
    return _Fitted(manifest, columns, columns, tools.modeller.answer(use_case, manifest, release, columns), actual)


def _fit_by_pieces(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, release: Path) -> _Fitted:
    """The same from disk: one piece of rows in memory, and of the held-out ones their answers."""
    with pieces.parted(tools, use_case, snapshot) as (learnt, judged):
        log.info("training in %d pieces on disk, %d more held out", len(learnt.files), len(judged.files))
        manifest = tools.modeller.fit_by_pieces(use_case, learnt, release)
        kept, first, answers, happened = [], None, [], []
        for columns, targets in judged:
            first = columns if first is None else first
            kept.append({name: columns[name] for name in slices.inputs(use_case)})
            answers.append(tools.modeller.answer(use_case, manifest, release, columns))
            happened.append(targets[use_case.target])
    return _Fitted(manifest, _joined(kept), first or {}, _joined(answers), np.concatenate(happened))


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _tell_slices(use_case: UseCase, columns: Columns, outputs: Outputs, actual: Values, folder: Path) -> None:
    """`slices.csv`: every metric on every declared slice of the held-out rows."""
    told = [
        {"slice": name, "rows": int(where.sum()), **measure(use_case, _some(outputs, where), actual[where])}
        for name, where in slices.names(use_case, columns, len(actual))
    ]
    folder.mkdir()
    pl.DataFrame(told).write_csv(folder / "slices.csv")


def _some(outputs: Outputs, where: NDArray[np.bool_]) -> Outputs:
    return {name: values[where] for name, values in outputs.items()}


def measure(use_case: UseCase, outputs: Outputs, actual: Values) -> dict[str, float]:
    """Every metric of the use case."""
    return {name: metric(outputs, actual) for name, metric in use_case.metrics.items()}


def _golden(use_case: UseCase, columns: Columns, outputs: Outputs) -> dict[str, list[dict[str, Any]]]:
    """The first held-out rows with their answers: what a place must give before it is ready."""
    first = {name: values[:GOLDEN_ROWS] for name, values in columns.items()}
    cells = {name: [float(value) for value in values[:GOLDEN_ROWS]] for name, values in outputs.items()}
    answers = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return {"rows": rows.requests_of(use_case, first), "outputs": answers}


def _run_record(
    tools: Tools,
    use_case: UseCase,
    snapshot: CleanSnapshot,
    manifest: Manifest,
    made_by: Provenance,
    folder: Path,
) -> RunRecord:
    parameters = {
        f"{part.name}.{name}": str(value) for part in manifest.parts for name, value in part.parameters.items()
    }
    return RunRecord(
        training_key=manifest.training_key,
        folder=folder,
        parameters={**parameters, "seed": str(use_case.seed), "features": ", ".join(use_case.feature_names)},
        metrics={name: value for name, value in manifest.metrics.items() if np.isfinite(value)},
        facts={
            "touchline.snapshot": snapshot.digest,
            "touchline.rows": json.dumps(snapshot.rows),
            "touchline.code_digest": made_by.code_digest,
            "touchline.git_commit": made_by.git_commit or "none",
            "touchline.lock_digest": made_by.lock_digest,
            "touchline.suites": json.dumps(snapshot.suites),
        },
        data=snapshot.digest[:12],
        data_uri=f"{tools.tables_at}@{json.dumps(snapshot.versions)}",
    )
