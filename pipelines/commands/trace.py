"""From an answer back to its source: `trace`."""

import argparse
import sys
from typing import TYPE_CHECKING

from pipelines.commands import declare, write_json
from pipelines.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.lineage import Rescored, Trace

SHORT = 12
MOST_FILES = 20


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    one = declare(commands, "trace", trace, "from an answer back to its version, training, files and rows")
    one.add_argument("prediction_id", help="id of a prediction, or the id that the client gave it")
    one.add_argument("--use-case", help="look only there; default: in every use case")
    one.add_argument(
        "--rescore",
        action="store_true",
        help="answer the recorded inputs again, offline, by the version's own code",
    )
    one.add_argument(
        "--rows", action="store_true", help="instead: every row of the snapshot with its file and position, as CSV"
    )


def trace(asked: argparse.Namespace, settings: Settings) -> None:
    """Follow it."""
    from pipelines import catalog, lineage, wiring

    names = [asked.use_case] if asked.use_case else sorted(catalog.find(settings.use_cases))
    use_cases = {name: wiring.use_case(settings, name) for name in names}
    traced = lineage.trace(settings, use_cases, asked.prediction_id)
    name = traced.prediction.use_case
    if asked.rows:
        for table, rows in lineage.training_rows(settings, use_cases[name], traced.evidence):
            sys.stdout.write(f"# {table}\n{rows.write_csv()}")
        return None
    if asked.rescore:
        again = lineage.rescore(wiring.tools(settings, name), use_cases[name], traced)
        traced = traced.model_copy(update={"rescored": again})
    if asked.json:
        return write_json(traced.model_dump(mode="json"))
    sys.stdout.write("".join(f"{head:<12}{line}\n" for head, line in _told(traced)))
    return None


def _told(traced: "Trace") -> "Iterator[tuple[str, str]]":
    """Head and line each; the way goes from the answer to the source."""
    yield from _prediction(traced)
    yield from _version(traced)
    yield from _sources(traced)
    if traced.rescored:
        yield "again", _again(traced.rescored)


def _prediction(traced: "Trace") -> "Iterator[tuple[str, str]]":
    one = traced.prediction
    outputs = ", ".join(f"{name} {value:.6g}" for name, value in one.outputs.items())
    inputs = ", ".join(f"{name} {value}" for name, value in one.inputs.items())
    yield "prediction", f"{one.prediction_id} of {one.use_case}, asked {one.requested_at:%Y-%m-%d %H:%M:%S.%f} UTC"
    yield "answer", f"{outputs} in {one.latency_ms:.2g} ms by place {one.place} ({one.role or 'direct'})"
    yield "inputs", inputs + (f"; client's id {one.client_id}" if one.client_id else "")
    if one.label:
        loss = "" if one.loss is None else f", loss {one.loss:.4g}"
        told = f"{one.label.actual:g}, observed {one.label.observed_at:%Y-%m-%d %H:%M:%S} UTC"
        yield "label", f"{told}, from {one.label.source}{loss}"
    else:
        yield "label", "none yet"
    if traced.others:
        yield "", f"{len(traced.others)} more record(s) bear this id (superseded or shadow)"


def _version(traced: "Trace") -> "Iterator[tuple[str, str]]":
    found = traced.evidence
    agrees = (
        "" if traced.bento_agrees else "  BUT the record names another digest: " + traced.prediction.bento_digest
    )
    yield "version", f"{found.version}, gate: {found.gate.reason if found.gate else 'none'}"
    yield "bento", f"{found.bento_tag} {_short(found.bento_digest)}{agrees}"
    yield "training", f"run {found.run_id}, {found.created_at:%Y-%m-%d %H:%M:%S} UTC, seed {found.seed}"
    commit = f", commit {_short(found.git_commit)}" if found.git_commit else ""
    yield "code", f"{_short(found.code_digest)}{commit}; lock {_short(found.lock_digest)}"
    gone = "" if traced.snapshot_kept else "  BUT its manifest is missing or was changed"
    yield "snapshot", f"{_short(found.snapshot.digest)} as of {found.snapshot.as_of:%Y-%m-%d %H:%M:%S} UTC{gone}"


def _sources(traced: "Trace") -> "Iterator[tuple[str, str]]":
    for each in traced.files[:MOST_FILES]:
        gone = "" if each.kept else "  (its bytes are gone)"
        rows = f"{each.rows:,} rows of {each.first_row:,} to {each.last_row:,}"
        yield "file", f"{each.table}: {each.file} {_short(each.digest)}, {rows}{gone}"
    if len(traced.files) > MOST_FILES:
        yield "", f"{len(traced.files) - MOST_FILES} more files: --json names all, --rows every row"
    for row in traced.rows:
        learnt = "came after the snapshot"
        if row.in_snapshot or row.replaced:
            learnt = "in the snapshot" if row.in_snapshot else "in the snapshot a later revision stands for it"
        place = f"{row.table}: {row.file} row {row.row:,}, revision {row.revision}"
        yield "its own row", f" {place}, batch {row.batch}, {learnt}"


def _again(found: "Rescored") -> str:
    outputs = ", ".join(f"{name} {value:.6g}" for name, value in found.outputs.items())
    verdict = "the same" if found.same else "NOT the same"
    return f"{outputs}: {verdict} (differs by {found.largest_difference:.2g}, {found.allowed:g} is allowed)"


def _short(digest: str | None) -> str:
    return (digest or "none")[:SHORT]
