"""XGBoost through scikit-learn's interface; parts are kept as `.ubj` and ONNX, never as a pickle."""

import gc
import json
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from pipelines.adapters.search import Learner, Parameters, calibrate, tune
from pipelines.calibration import finish
from pipelines.records import Calibrator, Manifest, Part
from pipelines.spec import Columns, Outputs, State, UseCase
from pipelines.spec import Part as Declared
from pipelines.tools import Pieces

Values = NDArray[np.float64]
Matrix = NDArray[np.float32]


class XGBoostModeller:
    """`Modeller`: the parts of a release, byte-equal for equal rows, parameters and seed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def fit(self, use_case: UseCase, columns: Columns, targets: Columns, folder: Path) -> Manifest:
        """Fit every part on n rows and write the release's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(json.dumps(use_case.fit_state(columns)))
        matrix = use_case.features(columns, state)
        parts = tuple(self._part(use_case, part, matrix, targets[part.target], folder) for part in use_case.parts)
        return Manifest(
            use_case=use_case.name, module="", training_key="", snapshot="", trained_at=datetime.now(UTC),
            parts=parts, state=state, feature_names=use_case.feature_names, ranges=_ranges(columns), metrics={},
        )  # fmt: skip

    def fit_by_pieces(self, use_case: UseCase, pieces: Pieces, folder: Path) -> Manifest:
        """XGBoost's external memory: quantised pages on disk, the same trees."""
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(json.dumps(use_case.fit_state(pieces.columns)))
        parts = tuple(self._part_by_pieces(use_case, part, pieces, state, folder) for part in use_case.parts)
        return Manifest(
            use_case=use_case.name, module="", training_key="", snapshot="", trained_at=datetime.now(UTC),
            parts=parts, state=state, feature_names=use_case.feature_names, ranges=_ranges(pieces.columns),
            metrics={},
        )  # fmt: skip

    def _part_by_pieces(
        self, use_case: UseCase, part: Declared, pieces: Pieces, state: State, folder: Path
    ) -> Part:
        base = None if part.base is None else use_case.feature_names.index(part.base)
        learner = Learner(part.kind, {"n_jobs": self.threads, "random_state": use_case.seed}, base)
        model = learner.fit_by_pieces(
            dict(part.parameters),
            ((use_case.features(columns, state), targets[part.target]) for columns, targets in pieces),
            pieces.folder / f"cache-{part.name}",
        )
        return _kept(part, base, None, dict(part.parameters), model, len(use_case.feature_names), folder)

    def answer(self, use_case: UseCase, manifest: Manifest, folder: Path, columns: Columns) -> Outputs:
        """Boosters by XGBoost, features and outputs by the use case; (n,) each."""
        matrix = use_case.features(columns, manifest.state)
        raw = {part.name: finish(part, _predict(folder / part.booster, matrix), matrix) for part in manifest.parts}
        return use_case.outputs(raw, columns)

    def draw(self, use_case: UseCase, manifest: Manifest, folder: Path, outputs: Outputs, actual: Values) -> None:
        """See `plots.draw`."""
        from pipelines.adapters import plots

        plots.draw(use_case, manifest, folder, outputs, actual)

    def _part(self, use_case: UseCase, part: Declared, matrix: Matrix, target: Values, folder: Path) -> Part:
        """Tune within the budget, fit on all rows, calibrate on answers to rows that each fold left out."""
        base = None if part.base is None else use_case.feature_names.index(part.base)
        learner = Learner(part.kind, {"n_jobs": self.threads, "random_state": use_case.seed}, base)
        chosen = dict(part.parameters)
        if use_case.tuning is not None:
            chosen |= tune(use_case, part, learner, matrix, target)
        model = learner.fit(chosen, matrix, target)
        calibrator: Calibrator | None = None
        if part.calibration != "none":
            calibrator = calibrate(use_case, part.calibration, learner, chosen, matrix, target)
        return _kept(part, base, calibrator, chosen, model, matrix.shape[1], folder)


def _kept(
    part: Declared,
    base: int | None,
    calibrator: Calibrator | None,
    parameters: Parameters,
    model: Any,
    width: int,
    folder: Path,
) -> Part:
    """The part's files."""
    made = Part(
        name=part.name, kind=part.kind, booster=f"{part.name}.ubj", onnx=f"{part.name}.onnx",
        base=base, calibrator=calibrator, parameters=parameters,
    )  # fmt: skip
    model.save_model(folder / made.booster)
    (folder / made.onnx).write_bytes(_onnx(model, width))
    return made


def _ranges(columns: Columns) -> dict[str, tuple[float, float]]:
    """Of every number that was there at all; what is missing is passed over."""
    numbers = ((name, values) for name, values in columns.items() if values.dtype != object and len(values))
    found = {name: (float(np.fmin.reduce(values)), float(np.fmax.reduce(values))) for name, values in numbers}
    return {name: ends for name, ends in found.items() if not np.isnan(ends[0])}


def _onnx(model: Any, width: int) -> bytes:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    with warnings.catch_warnings(), _no_collection():
        warnings.simplefilter("ignore", DeprecationWarning)
        converted = convert_xgboost(model, initial_types=[("x", FloatTensorType([None, width]))])
    return bytes(converted.SerializeToString())


@contextmanager
def _no_collection() -> Generator[None]:
    """While nodes of trees are made, a hundred thousand that all stay: to look through them took longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _predict(file: Path, matrix: Matrix) -> Values:
    booster = xgboost.Booster(model_file=file)
    return np.asarray(booster.inplace_predict(matrix), np.float64)
