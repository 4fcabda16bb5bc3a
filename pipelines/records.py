"""What steps hand to each other: small, frozen references that read as the log of a run."""

from datetime import datetime
from typing import Literal

from pipelines.spec import Frozen, State


class Part(Frozen):
    """One model file of a release, by its names inside the release's folder."""

    name: str
    kind: Literal["regressor", "classifier"]
    booster: str
    onnx: str


class Manifest(Frozen):
    """`release.json`: what a release's folder holds and how it answers.

    Beside it: `<part>.ubj` and `<part>.onnx` for each part and `golden.json`
    (`{"rows": [inputs…], "outputs": [{name: value}…]}`, answered by the offline model).
    """

    use_case: str
    module: str
    """Importable module that holds USE_CASE."""
    training_key: str
    snapshot: str
    """Content digest of the snapshot."""
    trained_at: datetime
    parts: tuple[Part, ...]
    state: State
    feature_names: tuple[str, ...]
    ranges: dict[str, tuple[float, float]]
    """Smallest and largest value of each numeric input in training."""
    metrics: dict[str, float]


class Stamp(Frozen):
    """`stamp.json` of a bento: which registered version it was built from."""

    use_case: str
    model_version: str
    bento_tag: str
    release_digest: str
    """SHA-256 over the release's files."""
    code_digest: str
    lock_digest: str
