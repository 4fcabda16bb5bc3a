"""A release that answers: features, model parts, outputs; on NumPy alone."""

import json
from operator import ge, le
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pydantic import ValidationError

from pipelines import metrics
from pipelines.adapters import onnx
from pipelines.calibration import finish
from pipelines.errors import BadRelease, CheckFailed
from pipelines.records import Manifest, Part
from pipelines.serving import digest
from pipelines.serving.contract import Contract, Rows
from pipelines.spec import Columns, Outputs, UseCase


class Predictor:
    """A release in memory. `load` makes one, and only one that answers its golden rows."""

    def __init__(self, folder: Path, manifest: Manifest, use_case: UseCase, output_names: tuple[str, ...]) -> None:
        """Open the parts; nothing is checked here."""
        self.manifest = manifest
        self.contract = Contract(use_case)
        self.output_names = output_names
        self._state = manifest.state
        self._features = use_case.features
        self._outputs = use_case.outputs
        self._parts = {part.name: _answering(folder, part) for part in manifest.parts}
        seen = [manifest.ranges.get(name, (-np.inf, np.inf)) for name in self.contract.numbers]
        self._least = [least for least, _ in seen]
        self._most = [most for _, most in seen]

    def answer(self, columns: Columns) -> Outputs:
        """Named outputs, (n,) each."""
        matrix = self._features(columns, self._state)
        return self._outputs({name: part(matrix) for name, part in self._parts.items()}, columns)

    def warnings(self, rows: Rows) -> list[list[dict[str, str]]]:
        """For each row, its inputs outside of what training saw."""
        told: list[list[dict[str, str]]] = [[] for _ in rows.keys]
        for warnings, values in zip(told, rows.numbers.T.tolist(), strict=True):
            if not (all(map(le, self._least, values)) and all(map(ge, self._most, values))):
                outside = zip(values, self._least, self._most, strict=True)
                places = [
                    place for place, (value, least, most) in enumerate(outside) if value < least or value > most
                ]
                warnings.extend(self._warning(place, values[place]) for place in places)
        return told

    def _warning(self, place: int, value: float) -> dict[str, str]:
        name, least, most = self.contract.numbers[place], self._least[place], self._most[place]
        message = f"{value:g} is outside of what training saw: {least:g} to {most:g}."
        return {"code": "outside_training_range", "field": name, "message": message}


def _answering(folder: Path, part: Part) -> onnx.Answer:
    """The part as a function; one without base and calibrator is its trees alone."""
    trees = onnx.part(folder / part.onnx, part.kind)
    if part.base is None and part.calibrator is None:
        return trees
    return lambda matrix: finish(part, trees(matrix), matrix)


def read_manifest(folder: Path) -> Manifest:
    """Read `release.json`; BadRelease says what is wrong with it."""
    try:
        return Manifest.model_validate_json((folder / "release.json").read_bytes())
    except (OSError, ValidationError) as wrong:
        raise BadRelease(f"{folder / 'release.json'}: {wrong}") from None


def load(folder: Path, use_case: UseCase, release_digest: str | None = None) -> Predictor:
    """Open a release and let it answer its golden rows.

    Raises BadRelease when the files are not those of the digest, CheckFailed when an answer differs from
    the offline model's by more than `use_case.parity` (relative).
    """
    found = digest.of_folder(folder)
    if release_digest not in {None, found}:
        raise BadRelease(f"{folder}: its files have the digest {found}, not {release_digest}")
    manifest = read_manifest(folder)
    if manifest.use_case != use_case.name:
        raise BadRelease(f"{folder}: is a release of {manifest.use_case}, not of {use_case.name}")
    golden = _golden(folder)
    predictor = Predictor(folder, manifest, use_case, tuple(golden["outputs"][0]))
    _check_golden(predictor, golden, use_case.parity)
    return predictor


def _golden(folder: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        golden: dict[str, list[dict[str, Any]]] = json.loads((folder / "golden.json").read_bytes())
    except (OSError, ValueError) as wrong:
        raise BadRelease(f"{folder / 'golden.json'}: {wrong}") from None
    if not golden.get("rows") or len(golden["rows"]) != len(golden.get("outputs", ())):
        raise BadRelease(f"{folder / 'golden.json'}: holds no rows with their outputs: nothing shows parity")
    return golden


def _check_golden(predictor: Predictor, golden: dict[str, list[dict[str, Any]]], parity: float) -> None:
    each = [predictor.contract.predict(msgspec.json.encode(row)) for row in golden["rows"]]
    columns = {name: np.concatenate([rows.columns[name] for rows in each]) for name in each[0].columns}
    answered = predictor.answer(columns)
    for name in predictor.output_names:
        expected = np.array([row[name] for row in golden["outputs"]])
        worst = metrics.apart(answered[name], expected)
        if not worst <= parity:
            raise CheckFailed(
                f"golden rows: {name} differs from the offline model by {worst:g}, allowed {parity:g}"
            )
