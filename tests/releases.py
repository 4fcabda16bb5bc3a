"""A small real release for tests and benchmarks: trained on simulated rows, with its golden rows."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from pipelines.records import Manifest, Part
from pipelines.use_cases.calories import USE_CASE, simulate

TRAINED_AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
INPUTS = tuple(field.name for field in USE_CASE.inputs)
ROW = {field.name: field.example for field in USE_CASE.inputs}


def make_release(folder: Path, trees: int = 20, seed: int = 0) -> Path:
    """Train a calories model and lay out its release as the trainer does."""
    folder.mkdir(parents=True)
    rows = USE_CASE.assemble(simulate(7, 0), TRAINED_AT)
    columns = {name: rows[name].to_numpy() for name in INPUTS}
    columns["Gender"] = columns["Gender"].astype(object)
    state = USE_CASE.fit_state(columns)
    matrix = USE_CASE.features(columns, state)
    model = xgboost.XGBRegressor(n_estimators=trees, max_depth=6, n_jobs=1, random_state=seed, subsample=0.9)
    model.fit(matrix, rows["Calories"].to_numpy())
    _write_parts(folder, model)
    ranges = {name: (columns[name].min(), columns[name].max()) for name in INPUTS if name != "Gender"}
    manifest = Manifest(
        use_case="calories",
        module="pipelines.use_cases.calories",
        training_key=f"test-{trees}-{seed}",
        snapshot="5" * 64,
        trained_at=TRAINED_AT,
        parts=(Part(name="energy", kind="regressor", booster="energy.ubj", onnx="energy.onnx"),),
        state=state,
        feature_names=USE_CASE.feature_names,
        ranges=ranges,
        metrics={"rmse": 1.5},
    )
    (folder / "release.json").write_text(manifest.model_dump_json(indent=1))
    outputs = USE_CASE.outputs({"energy": model.predict(matrix[:20]).astype(np.float64)}, columns)
    golden = {
        "rows": rows.select(INPUTS).head(20).to_dicts(),
        "outputs": [{"calories": float(value)} for value in outputs["calories"]],
    }
    (folder / "golden.json").write_text(json.dumps(golden))
    return folder


def _write_parts(folder: Path, model: xgboost.XGBRegressor) -> None:
    booster = model.get_booster()
    booster.save_model(folder / "energy.ubj")
    booster.feature_names = None
    shape = [None, len(USE_CASE.feature_names)]
    converted = onnxmltools.convert_xgboost(booster, initial_types=[("x", FloatTensorType(shape))])
    (folder / "energy.onnx").write_bytes(converted.SerializeToString())
