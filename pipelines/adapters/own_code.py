"""Runs a tracked model in the code that it carries, in a process of its own."""

import subprocess
import sys
from pathlib import Path

from pipelines.adapters import score
from pipelines.errors import BadRelease
from pipelines.spec import Columns, Outputs

PATIENCE_SECONDS = 600


class OwnCodeScorer:
    """`Scorer`: the model's `code/` stands before everything that is installed."""

    def score(self, model: Path, columns: Columns) -> Outputs:
        """Answers of the ONNX parts, as a place gives them."""
        return _run(model, "onnx", columns)

    def offline(self, model: Path, columns: Columns) -> Outputs:
        """Answers of the training library."""
        return _run(model, "training", columns)


def _run(model: Path, library: str, columns: Columns) -> Outputs:
    command = [sys.executable, "-P", "-m", "pipelines.adapters.score", str(model / "release"), library]
    done = subprocess.run(
        command,
        input=score.pack(columns),
        env={"PYTHONPATH": str(model / "code"), "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BadRelease(f"{model}: its own code cannot answer: {done.stderr.decode()[-800:]}")
    return score.unpack_outputs(done.stdout)
