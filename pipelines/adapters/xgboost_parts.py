"""XGBoost through scikit-learn's interface; parts are kept as `.ubj` and ONNX, never as a pickle."""

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from pipelines.records import Manifest, Part
from pipelines.spec import Columns, Outputs, UseCase

Values = NDArray[np.float64]


class XGBoostModeller:
    """`Modeller`: the parts of a release, byte-equal for equal rows, parameters and seed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def fit(self, use_case: UseCase, columns: Columns, targets: Columns, folder: Path) -> Manifest:
        """Fit every part on n rows and write the release's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(json.dumps(use_case.fit_state(columns)))
        matrix = use_case.features(columns, state)
        parts = tuple(
            self._part(
                part.kind,
                part.name,
                dict(part.parameters),
                use_case.seed,
                matrix,
                targets[part.target],
                folder,
            )
            for part in use_case.parts
        )
        manifest = Manifest(
            use_case=use_case.name, module="", training_key="", snapshot="", trained_at=datetime.now(UTC),
            parts=parts, state=state, feature_names=use_case.feature_names, ranges=_ranges(columns), metrics={},
        )  # fmt: skip
        return manifest

    def answer(self, use_case: UseCase, manifest: Manifest, folder: Path, columns: Columns) -> Outputs:
        """Boosters by XGBoost, features and outputs by the use case; (n,) each."""
        matrix = use_case.features(columns, manifest.state)
        raw = {part.name: _predict(folder / part.booster, matrix) for part in manifest.parts}
        return use_case.outputs(raw, columns)

    def draw(self, use_case: UseCase, manifest: Manifest, folder: Path, outputs: Outputs, actual: Values) -> None:
        """See `plots.draw`."""
        from pipelines.adapters import plots

        plots.draw(use_case, manifest, folder, outputs, actual)

    def _part(
        self,
        kind: Any,
        name: str,
        parameters: dict[str, Any],
        seed: int,
        matrix: Any,
        target: Values,
        folder: Path,
    ) -> Part:
        make = xgboost.XGBRegressor if kind == "regressor" else xgboost.XGBClassifier
        model = make(**{"random_state": seed, "n_jobs": self.threads, "tree_method": "hist", **parameters})
        model.fit(matrix, target)
        part = Part(name=name, kind=kind, booster=f"{name}.ubj", onnx=f"{name}.onnx")
        model.save_model(folder / part.booster)
        (folder / part.onnx).write_bytes(_onnx(model, matrix.shape[1]))
        return part


def _ranges(columns: Columns) -> dict[str, tuple[float, float]]:
    numbers = {name: values for name, values in columns.items() if values.dtype != object}
    return {name: (float(np.nanmin(values)), float(np.nanmax(values))) for name, values in numbers.items()}


def _onnx(model: Any, width: int) -> bytes:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    model.get_booster().feature_names = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        converted = convert_xgboost(model, initial_types=[("x", FloatTensorType([None, width]))])
    return bytes(converted.SerializeToString())


def _predict(file: Path, matrix: NDArray[np.float32]) -> Values:
    booster = xgboost.Booster(model_file=file)
    return np.asarray(booster.inplace_predict(matrix), np.float64)
