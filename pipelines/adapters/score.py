"""`python -m pipelines.adapters.score RELEASE [LIBRARY]`: answer columns from standard input, in this code.

Columns come and outputs go as msgpack; LIBRARY is `onnx` (what a place runs) or `training` (what trained it).
"""

import importlib
import sys
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.rows import column
from pipelines.serving import predictor
from pipelines.spec import Columns, Outputs, UseCase


def pack(columns: Columns) -> bytes:
    """Arrays as lists; missing numbers as null."""
    return msgspec.msgpack.encode({name: _cells(values) for name, values in columns.items()})


def _cells(values: NDArray[np.float64]) -> list[object]:
    return [None if cell != cell else cell for cell in values.tolist()]  # NaN alone differs from itself


def unpack_outputs(packed: bytes) -> Outputs:
    """Outputs by name, (n,) each."""
    told = msgspec.msgpack.decode(packed, type=dict[str, list[float | None]])
    return {name: np.array([np.nan if cell is None else cell for cell in cells]) for name, cells in told.items()}


def main(release: Path, library: str) -> None:
    """Read, answer, write."""
    manifest = predictor.read_manifest(release)
    use_case: UseCase = importlib.import_module(manifest.module).USE_CASE
    sent = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=dict[str, list[object]])
    columns = {field.name: column(field, sent[field.name]) for field in use_case.inputs}
    if library == "onnx":
        outputs = predictor.load(release, use_case).answer(columns)
    else:
        from pipelines.adapters.xgboost_parts import XGBoostModeller

        outputs = XGBoostModeller(1).answer(use_case, manifest, release, columns)
    sys.stdout.buffer.write(pack({name: np.asarray(values, np.float64) for name, values in outputs.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
