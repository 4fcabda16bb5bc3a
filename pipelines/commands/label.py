"""Labels by hand or from a file: what really happened, told to the running endpoint."""

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.commands import declare, moment, write_json
from pipelines.errors import BadSettings, Final
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.endpoint import Endpoint
    from pipelines.spec import UseCase

AT_ONCE = 500
SHOWN = 20


class Told(NamedTuple):
    """What became of the labels."""

    accepted: int
    refused: list[dict[str, Any]]
    """Row (from 1), code, field and message of each."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    one = declare(commands, "label", label, "tell what really happened: one label, or a file of them")
    one.add_argument("use_case", help="name of the use case")
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", help="the prediction's id, or the client's own")
    which.add_argument("--key", help="the entity's key")
    which.add_argument(
        "--file", type=Path, help="CSV or JSON Lines: prediction_id or key, actual, event_time, observed_at"
    )
    one.add_argument("--actual", type=finite, help="what happened, in the target's unit")
    one.add_argument("--event-time", type=moment, help="when it happened (RFC 3339); default: all that wait")
    one.add_argument("--observed-at", type=moment, help="when it was seen; default, and at the latest, now")


def label(asked: argparse.Namespace, settings: Settings) -> None:
    """Send; a refused label is a final error, after the others were taken in."""
    from pipelines import endpoint, wiring

    use_case = wiring.use_case(settings, asked.use_case)
    labels = [_one(asked, use_case)] if asked.file is None else list(_of(asked.file, use_case))
    with endpoint.opened(f"{settings.endpoint}/{use_case.name}") as line:
        told = _send(line, labels, min(AT_ONCE, use_case.serving.batch_limit))
    if asked.json:
        write_json(told._asdict())
    else:
        _write(told)
    if told.refused:
        raise Final(f"{len(told.refused)} of {len(labels)} labels were refused")


def _one(asked: argparse.Namespace, use_case: "UseCase") -> dict[str, Any]:
    if asked.actual is None:
        raise BadSettings("--actual: what happened?")
    who = {"prediction_id": asked.id} if asked.key is None else {use_case.entity: asked.key}
    times = {"event_time": asked.event_time, "observed_at": asked.observed_at}
    return {**who, "actual": asked.actual, **{name: _rfc3339(time) for name, time in times.items() if time}}


def _rfc3339(time: datetime) -> str:
    return time.isoformat()


def _of(file: Path, use_case: "UseCase") -> Iterator[dict[str, Any]]:
    """The labels of a file; its column `key` is the entity's."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = _csv(lines) if file.suffix == ".csv" else _jsonl(lines)
            for row in rows:
                yield {(use_case.entity if name == "key" else name): value for name, value in row.items()}
    except (OSError, ValueError) as wrong:
        raise BadSettings(f"--file {file}: {wrong}") from wrong


def _jsonl(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """An object a line; ValueError names the line that is none."""
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            raise ValueError(f"line {place} is no JSON object: {line.strip()[:60]}")
        try:
            yield json.loads(line)
        except ValueError as wrong:
            raise ValueError(f"line {place} is no JSON: {wrong}") from wrong


def _csv(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The filled cells of each row; ValueError names the line that has more of them than the header."""
    rows = csv.DictReader(lines)
    for row in rows:
        if None in row:
            raise ValueError(f"line {rows.line_num} has more cells than the header")
        known = {name: value for name, value in row.items() if value}
        yield {**known, **({"actual": _number(known["actual"])} if "actual" in known else {})}


def _number(text: str) -> float | str:
    """As it is where it is none: the endpoint says what is wrong with it."""
    try:
        return finite(text)
    except ValueError:
        return text


def finite(text: str) -> float:
    """A number that JSON can carry; ValueError for infinity and NaN too."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _send(line: "Endpoint", labels: list[dict[str, Any]], most: int) -> Told:
    accepted, refused = 0, list[dict[str, Any]]()
    for start in range(0, len(labels), most):
        taken, errors = _batch(line, labels[start : start + most])
        accepted += taken
        refused += [{**error, "row": start + (error["row"] or 0) + 1} for error in errors]
    return Told(accepted, refused)


def _batch(line: "Endpoint", labels: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
    """Where a whole body is refused only one reason is told: then each label is asked about alone."""
    status, told = line.post("labels", labels)
    if status == 202:
        return told["accepted"], told["errors"]
    if len(labels) == 1:
        return 0, [told["error"]]
    each = [_batch(line, [one]) for one in labels]
    errors = [{**error, "row": row} for row, (_, found) in enumerate(each) for error in found]
    return sum(taken for taken, _ in each), errors


def _write(told: Told) -> None:
    sys.stdout.write(f"{told.accepted:,} accepted, {len(told.refused):,} refused\n")
    for one in told.refused[:SHOWN]:
        field = f" ({one['field']})" if one["field"] else ""
        sys.stdout.write(f"  row {one['row']}: {one['code']}{field}: {one['message']}\n")
    if len(told.refused) > SHOWN:
        sys.stdout.write(f"  and {len(told.refused) - SHOWN:,} more; --json tells all\n")
