"""ONNX Runtime: a model part as a function on one matrix."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Answer = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""float32 (n, k) to (n,): the value, or the probability of the positive class."""
_ERRORS_ONLY = 3


def part(file: Path, kind: Literal["regressor", "classifier"]) -> Answer:
    """Load one part; a single thread answers fastest at the sizes of a request."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    last = [session.get_outputs()[-1].name]

    def value(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return session.run(last, {"x": matrix})[0][:, 0].astype(np.float64)  # type: ignore[no-any-return]

    def probability(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return session.run(last, {"x": matrix})[0][:, 1].astype(np.float64)  # type: ignore[no-any-return]

    return value if kind == "regressor" else probability
