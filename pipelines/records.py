"""What steps hand to each other: small, frozen references that read as the log of a run."""

from datetime import datetime
from typing import Literal

from pydantic import Field as field_of

from pipelines.spec import Frozen, State


class Calibrator(Frozen):
    """How a part's probabilities are mended, as numbers."""

    kind: Literal["sigmoid", "temperature", "isotonic"]
    slope: float = 1.0
    intercept: float = 0.0
    """Of the line through the log odds."""
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    """Corners of the isotonic function."""


class Part(Frozen):
    """One model file of a release, by its names inside the release's folder."""

    name: str
    kind: Literal["regressor", "classifier"]
    booster: str
    onnx: str
    base: int | None = None
    """Column of the features that its answer starts from."""
    calibrator: Calibrator | None = None
    parameters: dict[str, float | int | str] = field_of(default_factory=dict)
    """As trained: declared, or found by tuning."""


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


class Batch(Frozen):
    """A piece of a file as it arrived: the intent of an ingest, numbered per table without gaps."""

    number: int
    file: str
    digest: str
    """SHA-256 of the bytes that arrived; they lie in the landing under this name."""
    size: int
    rows: int
    """Data rows; for a file that is no table its lines, so that nothing goes uncounted."""
    unreadable: str | None
    """Why the file is no table; None when it is one."""
    received_at: datetime
    stamp: str = ""
    """The source's mark of what is taken in with this batch: a cursor, or size and time of change."""
    start: int | None = None
    """Bytes of the plain file, rows of a Parquet file; None: the whole file, as earlier versions took it."""
    stop: int | None = None
    first: int = 1
    """Position of the first row among all of the file."""


class Arrivals(Frozen):
    """Batches of one table that wait for validation: new ones and those that a killed run left."""

    table: str
    batches: tuple[Batch, ...]


class Told(Frozen):
    """One reason, how many rows have it, and the first of them: enough to mend the source."""

    reason: str
    rows: int
    first: tuple[int, ...]

    @property
    def places(self) -> str:
        """The first of them, for a person; "…" where there are more."""
        return ", ".join(map(str, self.first)) + (" …" if self.rows > len(self.first) else "")


class CheckedBatch(Frozen):
    """A batch with its verdict; its rows lie in the folder `uri` (`judged`), nowhere where they are none."""

    batch: Batch
    uri: str
    suite: str
    """Digest of the suite that judged."""
    failed: str | None
    """Why the whole batch is refused; None when its good rows may be published."""
    broken: int
    warnings: tuple[str, ...]
    reasons: tuple[Told, ...] = ()
    """The most frequent first."""
    page: str = ""
    """URI of the rendered validation; empty where nothing could be judged."""


class CheckedArrivals(Frozen):
    """What validation hands to publishing."""

    table: str
    batches: tuple[CheckedBatch, ...]


class Ledger(Frozen):
    """The count of every row that ever arrived at one table, derived from what was committed."""

    table: str
    arrived: int = 0
    published: int = 0
    revised: int = 0
    quarantined: int = 0
    duplicate: int = 0
    discarded: int = 0

    @property
    def balanced(self) -> bool:
        """Law L1."""
        return self.arrived == sum((
            self.published,
            self.revised,
            self.quarantined,
            self.duplicate,
            self.discarded,
        ))


class Wish(Frozen):
    """Why a training is wanted, and of which rows."""

    reason: str = "asked for by hand"
    as_of: datetime | None = None
    """Only rows that had arrived by then; None: by the time of the run."""
    snapshot: str | None = None
    """Beginning of the digest of a snapshot that was taken before; its rows are used again."""
    force: bool = False
    """Judge again and ask to serve, also where that was done before or the rows are older than the champion's."""


class Due(Frozen):
    """Whether labels ask for a training before its time."""

    due: bool
    labels: int
    """New ones since the last training."""
    reason: str


class Chosen(Frozen):
    """Which quarantined rows are meant; None: all."""

    batch: int | None = None
    reason: str | None = None
    """Part of a reason's text."""


class Replayed(Frozen):
    """What became of quarantined rows that were judged anew."""

    table: str
    published: int
    revised: int
    duplicate: int
    """Equal to what is in force, or overtaken by a later row of the same key."""
    broken: int
    """Still in quarantine."""
    unknown: int
    """Corrected rows that do not wait in quarantine (any more)."""
    trained_without: tuple[str, ...]
    """Model versions whose snapshot is older than these rows."""


class Discarded(Frozen):
    """Quarantined rows that a person gave up."""

    table: str
    rows: int
    by: str
    why: str


class CleanSnapshot(Frozen):
    """A manifest of validated rows: all that a training run may see. Only `take_snapshot` makes one."""

    use_case: str
    as_of: datetime
    versions: dict[str, int]
    """Delta version of each table."""
    rows: dict[str, int]
    suites: dict[str, str]
    """Digest of the suite in force for each table."""
    digest: str
    """SHA-256 over schema and content hashes of the rows in force."""


class Candidate(Frozen):
    """A trained release with its metrics, not yet judged."""

    training_key: str
    run_id: str
    snapshot: CleanSnapshot
    metrics: dict[str, float]
    found: bool
    """True: these data, code and parameters were trained before; nothing was trained now."""


Interval = tuple[float, float, float]
"""(difference, lower, upper) of two models' metrics on the same rows."""


class SliceVerdict(Frozen):
    """One declared slice of the held-out rows."""

    name: str
    rows: int
    candidate: float | None
    against_champion: Interval | None
    """None without a champion, or with too few rows to say."""


class CalibrationVerdict(Frozen):
    """Whether a probability means what it says."""

    output: str
    error: float
    """Expected calibration error on the held-out rows."""
    allowed: float
    """What a calibrated model of the same probabilities stays below."""


class GateVerdict(Frozen):
    """Candidate against champion on the same held-out rows."""

    passed: bool
    reason: str
    metric: str
    candidate: float | None
    """None where an answer was not finite, so that there is no metric."""
    champion: float | None
    champion_version: str | None
    difference: Interval | None
    """Of candidate - champion; None without a champion."""
    rows: int
    baseline: float | None = None
    against_baseline: Interval | None = None
    calibration: tuple[CalibrationVerdict, ...] = ()
    slices: tuple[SliceVerdict, ...] = ()


class Window(Frozen):
    """One step of a backtest: trained on what was before `start`, judged on what came up to `end`."""

    start: datetime
    end: datetime
    learnt: int
    judged: int
    metrics: dict[str, float]


class Backtest(Frozen):
    """What would have been answered, window after window."""

    windows: tuple[Window, ...]
    whole: GateVerdict
    """The gate's questions on all windows together."""


class Gated(Frozen):
    """A candidate that passed the gate."""

    candidate: Candidate
    verdict: GateVerdict


class Registered(Frozen):
    """A version in the registry, without an alias."""

    gated: Gated
    version: str


class Built(Frozen):
    """The immutable bento of one version."""

    registered: Registered
    tag: str
    digest: str


class CheckVerdict(Frozen):
    """Answers of the started bento beside those of the offline model."""

    passed: bool
    reason: str
    rows: int
    largest_difference: float | None
    """Largest relative difference of any output; None where an answer was not finite."""


class Checked(Frozen):
    """A bento that answers like its offline model."""

    built: Built
    verdict: CheckVerdict


class Promotion(Frozen):
    """What was asked of the reconciler."""

    version: str
    asked_now: bool
    reason: str
