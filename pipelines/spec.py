"""The declarative description of one use case: data its owner can read, plus a few plain functions."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator
from pydantic import Field as field_of

if TYPE_CHECKING:
    from polars import DataFrame
else:
    DataFrame = Any  # a place serves without Polars

Columns = Mapping[str, NDArray[Any]]
"""Equally long 1-d arrays by name, to be read only: float64 for numbers and integers, object (str) for text."""
Outputs = Mapping[str, NDArray[np.float64]]
"""What a release answers, by name; each array is (n,)."""
State = dict[str, Any]
"""What `fit_state` learnt: JSON and nothing else."""
Loss = Callable[[Outputs, NDArray[np.float64]], NDArray[np.float64]]
Metric = Callable[[Outputs, NDArray[np.float64]], float]
Event = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Actual values (n,) to what happened, 0 or 1, (n,)."""
Assemble = Callable[[Mapping[str, DataFrame], datetime], DataFrame]
Simulate = Callable[[int, int], Mapping[str, DataFrame]]

RESERVED = frozenset({"prediction_id", "event_time"})
"""Names that every request has."""
UNSPOKEN = frozenset('"\\')
"""What no name of an input may hold: it would have to be escaped in a request."""
NAME = r"^[a-z][a-z0-9_]{1,30}$"


def matrix(features: Sequence[ArrayLike]) -> NDArray[np.float32]:
    """Features of n cells each, one or more, as float32 (n, k), each in one piece of memory (Fortran's order)."""
    beside = np.empty((len(features), np.size(features[0])), np.float32)
    for place, cells in enumerate(features):
        beside[place] = cells
    return beside.T


class Frozen(BaseModel):
    """Immutable, strict data: an unknown key is an error that names its path."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Field(Frozen):
    """One column of a table, or one input of a request.

    `minimum` and `maximum` bound what is valid at all (a request outside is refused);
    the range seen in training is learnt, and a request outside of it is answered with a warning.
    """

    name: str = field_of(min_length=1, pattern=r"^[^\x00]+$")
    """Without a NUL: Arrow ends its process at one."""
    type: Literal["number", "integer", "text", "time"]
    """A time is for columns of tables only; it lies in the table as UTC."""
    formats: tuple[str, ...] = ()
    """How a time is written in a source that gives text, by strftime's letters, tried in order; none: RFC 3339."""
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    optional: bool = False
    example: float | int | str
    description: str = ""


def _zone_exists(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"no time zone is called {zone!r}") from None
    return zone


Zone = Annotated[str, AfterValidator(_zone_exists)]
"""Times that a source writes without an offset are of this zone."""


class Files(Frozen):
    """Files in a folder or below an S3 prefix: CSV, Parquet, JSON Lines, also compressed with gzip."""

    kind: Literal["files"] = "files"
    pattern: str
    """Glob over file names."""
    at: str | None = None
    """Folder or `s3://bucket/prefix`; None: TOUCHLINE_DATA."""
    zone: Zone = "UTC"


def _without_password(url: str) -> str:
    try:
        secret = urlsplit(url).password
    except ValueError:
        raise ValueError("it is no URL") from None
    if secret is not None:
        raise ValueError("a URL with a password stands in no file; use env:NAME, which reads it from there")
    return url


class Sql(Frozen):
    """Rows of a query, read after a cursor."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    kind: Literal["sql"] = "sql"
    url: Annotated[str, AfterValidator(_without_password)]
    """SQLAlchemy URL without a password; `env:NAME` reads the whole URL from that variable."""
    query: str
    """A select; it is asked for the rows above the cursor, in its order."""
    cursor: str
    """Column of the query that only grows: a time of change or a number."""
    lag: timedelta = timedelta(minutes=10)
    """A time cursor is set back by this much, because transactions commit late; rows seen twice are duplicates."""
    zone: Zone = "UTC"


class Answers(Frozen):
    """Answered predictions of this use case with their labels: inputs, entity, event time and target."""

    kind: Literal["answers"] = "answers"


Source = Annotated[Files | Sql | Answers, field_of(discriminator="kind")]


class Table(Frozen):
    """Rows of one kind; each source fills one table."""

    name: str = field_of(pattern=NAME)
    source: Source
    key: tuple[str, ...] = field_of(min_length=1)
    columns: tuple[Field, ...] = field_of(min_length=1)
    max_age: timedelta = timedelta(days=2)
    """How old the newest arrival may be before the suite's freshness rule says so."""

    @model_validator(mode="after")
    def _key_is_declared(self) -> "Table":
        missing = set(self.key) - {column.name for column in self.columns}
        if missing:
            raise ValueError(f"table {self.name}: key {sorted(missing)} is not among the columns")
        return self


class Part(Frozen):
    """One model of a release, trained through scikit-learn's interface, served as ONNX."""

    name: str = field_of(pattern=NAME)
    kind: Literal["regressor", "classifier"]
    target: str
    """Column of the assembled rows that this part learns."""
    parameters: dict[str, float | int | str] = {}
    base: str | None = None
    """Feature that already is an answer (log odds of a classifier): the part learns what to add to it."""
    calibration: Literal["none", "sigmoid", "temperature", "isotonic"] = "none"
    """How a classifier's probabilities are mended, on training rows that its trees have not seen."""


class Slice(Frozen):
    """Rows that must be looked at apart: by one column, or by several at once (an intersection)."""

    by: tuple[str, ...] = field_of(min_length=1)
    """Inputs; text by its words, numbers by `edges`."""
    edges: dict[str, tuple[float, ...]] = {}
    """Ascending borders of each number; a value on a border belongs above it."""


class HeldOutByEntity(Frozen):
    """A hash of the entity decides, for good."""

    kind: Literal["entity"] = "entity"
    share: float = field_of(default=0.2, gt=0, lt=1)


class HeldOutByTime(Frozen):
    """The newest events are held out: no model is judged on what was before its training data."""

    kind: Literal["time"] = "time"
    window: timedelta = field_of(gt=timedelta(0))
    """Before the newest event; the border only moves forward, so no champion trained behind it."""


HeldOut = Annotated[HeldOutByEntity | HeldOutByTime, field_of(discriminator="kind")]


class Tuning(Frozen):
    """A search over parameters within a budget, by cross-validation on training rows, in their order of time."""

    trials: int = field_of(ge=1, le=500)
    folds: int = field_of(default=3, ge=2, le=10)
    space: dict[str, tuple[float | int | str, ...]] = field_of(min_length=1)


class Calibrated(Frozen):
    """An output that is a probability and must mean what it says."""

    output: str
    event: Event
    """What the output is the probability of."""
    bins: int = field_of(default=10, ge=2, le=100)
    """Equal-width bins of the expected calibration error."""
    confidence: float = field_of(default=0.99, gt=0.5, lt=1)
    """The error must lie within what a calibrated model shows at that many rows in this share of draws."""


class Gate(Frozen):
    """When a candidate is good enough: an absolute floor, and not worse than the champion."""

    metric: str
    at_most: float
    worse_by_at_most: float = field_of(ge=0)
    """Declared margin: the upper end of the paired interval of (candidate - champion) stays below."""
    worse_than_baseline_by_at_most: float | None = None
    """The same against the use case's `baseline`; below 0: it must be better by that much. None: shown only."""
    slice_worse_by_at_most: float | None = field_of(default=None, ge=0)
    """In no slice may the lower end of that interval lie above this; None: slices are shown, not gated."""
    confidence: float = field_of(default=0.95, gt=0.5, lt=1)
    resamples: int = field_of(default=1000, ge=100)
    minimum_rows: int = field_of(default=100, ge=2)


class Serving(Frozen):
    """Limits of the endpoint."""

    batch_limit: int = field_of(default=250, ge=1, le=10_000)
    body_limit: int = field_of(default=65_536 - 16_384, ge=1024, le=262_144 - 16_384)
    """Bytes. The proxy's buffers follow from the largest of all use cases, because a retry needs the whole body;
    it copies a whole buffer for every request, so that 245,760 cost each request of all use cases some 30 us."""
    time_limit: timedelta = timedelta(seconds=2)


class Shadow(Frozen):
    """Requests that a stable place answered are asked again of the challenger, shortly after; no client waits."""

    share: float = field_of(default=0.2, ge=0, le=1)
    """Of the logged requests, chosen by their id; 0: there is no such stage, and losses are never paired."""
    time: timedelta = field_of(default=timedelta(minutes=10), ge=timedelta(0))
    """How long the stage lasts at least."""
    pairs: int = field_of(default=200, ge=0)
    """So many requests answered by both, before the first canary."""
    labels: int = field_of(default=0, ge=0)
    """So many of them with their label; 0: the slow clock may roll back here, and is not waited for."""


class Stage(Frozen):
    """A share of the requests for the challenger, and what must be known before the next one begins."""

    weight: float = field_of(ge=0.01, lt=100)
    """Percent of all requests."""
    time: timedelta = field_of(default=timedelta(minutes=10), ge=timedelta(0))
    requests: int = field_of(default=500, ge=1)
    """The fast clock's sample: answered by the challenger in this stage."""
    labels: int = field_of(default=0, ge=0)
    """The slow clock's sample, of the whole rollout: labelled pairs, without a shadow the challenger's labelled
    answers; 0: that clock may roll back here, and is not waited for."""
    approval: bool = False
    """A person must agree before it begins."""


class RolloutPlan(Frozen):
    """The way of a challenger to champion: shadow, stages, all, watch.

    A metric that is surely worse than allowed rolls back; the next stage begins when each is surely not worse than
    allowed. Surely: but for `alpha`, over all metrics, stages and looks together.
    """

    shadow: Shadow = Shadow()
    stages: tuple[Stage, ...] = (Stage(weight=5), Stage(weight=25), Stage(weight=50, labels=200))
    alpha: float = field_of(default=0.05, gt=0, lt=0.5)
    errors_worse_by_at_most: float = field_of(default=0.01, gt=0, le=1)
    """Share of failed requests, challenger minus champion."""
    latency_worse_by_at_most: dict[str, float] = {"p50": 0.5, "p95": 0.5}
    """By quantile (p1 to p99): 0.5 means half as long again."""
    disagreement_at_most: dict[str, float] = {}
    """By output, in its unit: mean distance between the two answers to one request."""
    shift_at_most: dict[str, float] = {}
    """By output, in its unit: how far the mean answer may move, up or down."""
    loss_worse_by_at_most: float = field_of(default=0.05, gt=0)
    """Of the champion's mean loss: 0.05 means 5 % more."""
    miscalibrated_by_at_most: float | None = field_of(default=None, gt=0, lt=1)
    """How far each output that must be calibrated may lie from what happens, on average; None: not watched."""
    cap: float = field_of(default=25, gt=0, le=100)
    """Percent that the challenger gets at most until a horizon after its first request; 100: no cap."""
    no_difference: Literal["promote", "rollback"] = "promote"
    """What becomes of a challenger that is not worse than allowed, and not better either."""
    patience: timedelta = field_of(default=timedelta(days=14), gt=timedelta(0))
    """How long a stage may stay undecided."""
    undecided: Literal["rollback", "hold"] = "rollback"
    """What is done then: give it up, or wait for a person."""
    full_approval: bool = False
    """A person must agree before it gets all requests."""
    watch: timedelta = field_of(default=timedelta(hours=1), ge=timedelta(0))
    """How long it is watched then at least; always until the horizon."""
    newer: Literal["waits", "replaces"] = "waits"
    """What a newer challenger does while this one is under way."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "RolloutPlan":
        for fault in self._faults():
            raise ValueError(fault)
        return self

    def _faults(self) -> Iterator[str]:
        weights = [stage.weight for stage in self.stages]
        if weights != sorted(set(weights)):
            yield f"stages: their weights must ascend, not {weights}"
        for place, weight in enumerate(weights):
            if round(weight * 100, 6) % 1:
                yield f"stages.{place}.weight: the proxy splits by hundredths of a percent, not {weight}"
        if not weights and self.cap < 100:
            yield "cap: without stages nothing can wait for the horizon; 100 says so"
        if weights and weights[0] > self.cap:
            yield f"cap: the first stage has {weights[0]:g} %, and the horizon counts from its first request"
        if self.no_difference == "rollback" and not (weights and self.stages[-1].labels):
            yield "no_difference: only labels show it; the last stage must wait for some"
        if not self.shadow.share:
            for name in ("pairs", "labels"):
                if getattr(self.shadow, name) and name in self.shadow.model_fields_set:
                    yield f"shadow.{name}: without a share nothing is paired"
            for name in ("disagreement_at_most", "shift_at_most"):
                if getattr(self, name):
                    yield f"{name}: without shadow.share no request is answered by both"
        for name in self.latency_worse_by_at_most:
            if not re.fullmatch(r"p[1-9][0-9]?", name):
                yield f"latency_worse_by_at_most.{name}: a quantile is p1 to p99"
        for field in ("latency_worse_by_at_most", "disagreement_at_most", "shift_at_most"):
            for name, most in getattr(self, field).items():
                if most <= 0:
                    yield f"{field}.{name}: must be above 0, for no sample shows that two are equal"


class UseCase(Frozen):
    """Everything that the platform knows about one prediction product.

    `assemble(tables, as_of)` joins tables to training rows, one row per event, nothing newer than the event.
    `fit_state(columns)` learns vocabularies and medians; JSON. `features(columns, state)` gives float32
    (n, len(feature_names)); it is the only feature code, offline and online. `outputs(raw, columns)` turns the
    parts' raw answers ((n,) each: value, or probability of the positive class) into named outputs.
    `baseline(columns)` is what one would answer without a model, under the same names.
    `loss(outputs, actual)` gives (n,). `simulate(seed, drop)` gives the tables of one simulated drop.
    `labels` has, by the name of a table, what its newly published rows tell of entities that were predicted:
    columns `entity` and `actual`, where known also `event_time` and `observed_at`; no rows: nothing.
    """

    name: str = field_of(pattern=NAME)
    owner: str
    description: str
    tables: tuple[Table, ...] = field_of(min_length=1)
    inputs: tuple[Field, ...] = field_of(min_length=1)
    entity: str
    """Column of the assembled rows: its hash decides what is held out; also the key of a request."""
    target: str
    """Column of the assembled rows that a label reports."""
    target_unit: str = ""
    event_time: str | None = None
    """Column of the assembled rows that says when it happened; None: time does not matter."""
    horizon: timedelta
    """How long a label may take."""
    feature_names: tuple[str, ...] = field_of(min_length=1)
    parts: tuple[Part, ...] = field_of(min_length=1)
    metrics: dict[str, Metric]
    gate: Gate
    rollout: RolloutPlan = RolloutPlan()
    serving: Serving = Serving()
    calibrated: tuple[Calibrated, ...] = ()
    slices: tuple[Slice, ...] = ()
    held_out: HeldOut = HeldOutByEntity()
    tuning: Tuning | None = None
    in_pieces: bool = False
    """Whether it can be trained on more rows than fit in memory (TOUCHLINE_TRAINING_MEMORY_MB): `assemble` then
    gets and gives Polars' LazyFrames, and features are made of some rows at a time."""
    seed: int = 0
    parity: float = field_of(default=1e-4, gt=0)
    """Largest difference allowed between an answer of the bento and of the offline model, relative to the answer,
    or to the mean one where that is larger."""
    ingest_schedule: str = "*/15 * * * *"
    retrain_schedule: str = "15 2 * * *"
    labels_schedule: str = "*/10 * * * *"
    """How often the new labels are counted."""
    retrain_after_labels: int | None = field_of(default=None, ge=1)
    """So many new labels since the last training ask for the next one before its time."""
    assemble: Assemble
    fit_state: Callable[[Columns], State]
    features: Callable[[Columns, State], NDArray[np.float32]]
    outputs: Callable[[Mapping[str, NDArray[np.float64]], Columns], Outputs]
    loss: Loss
    baseline: Callable[[Columns], Outputs] | None = None
    simulate: Simulate | None = None
    labels: Mapping[str, Callable[[DataFrame], DataFrame]] = field_of(default_factory=dict)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "UseCase":
        if self.gate.metric not in self.metrics:
            raise ValueError(f"gate.metric: {self.gate.metric!r} is not among metrics {sorted(self.metrics)}")
        for what, names in (
            ("tables", [table.name for table in self.tables]),
            ("parts", [part.name for part in self.parts]),
            ("inputs", [field.name for field in self.inputs]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: a name is used twice: {names}")
        reserved = (RESERVED | {self.entity}) & {field.name for field in self.inputs}
        if reserved:
            raise ValueError(f"inputs: {sorted(reserved)} are keys of a request, not inputs")
        for fault in self._faults():
            raise ValueError(fault)
        return self

    def _faults(self) -> Iterator[str]:
        inputs = {field.name: field for field in self.inputs}
        if any(field.type == "time" for field in self.inputs):
            yield "inputs: a time is no input; a request has its event_time"
        if self.baseline is None and self.gate.worse_than_baseline_by_at_most is not None:
            yield "gate.worse_than_baseline_by_at_most: the use case has no baseline"
        for name in (*inputs, self.entity):
            if set(name) & UNSPOKEN or not name.isprintable():
                yield f"inputs: {name!r} has a quote, a backslash or a control character and cannot be sent"
        if unknown := set(self.labels) - {table.name for table in self.tables}:
            yield f"labels: {sorted(unknown)} are no tables"
        for part in self.parts:
            if part.base is not None and part.base not in self.feature_names:
                yield f"parts.{part.name}.base: {part.base!r} is not among feature_names"
            if part.calibration != "none" and part.kind != "classifier":
                yield f"parts.{part.name}.calibration: only a classifier's probabilities can be calibrated"
        for each in self.slices:
            for name in each.by:
                if name not in inputs:
                    yield f"slices: {name!r} is not among inputs"
                elif inputs[name].type != "text" and not each.edges.get(name):
                    yield f"slices.{name}: a number needs edges"
        if self.in_pieces and (self.tuning or any(part.calibration != "none" for part in self.parts)):
            yield "in_pieces: tuning and calibration need all rows in memory"
        if self.rollout.miscalibrated_by_at_most is not None and not self.calibrated:
            yield "rollout.miscalibrated_by_at_most: no output must be calibrated"
        if self.rollout.cap < 100 and self.rollout.patience <= self.horizon:
            yield "rollout.patience: no longer than the horizon, which the cap makes it wait for"
        if isinstance(self.held_out, HeldOutByTime) and self.event_time is None:
            yield "held_out: by time needs event_time"

    def table(self, name: str) -> Table:
        """The table of that name; KeyError when there is none."""
        return {table.name: table for table in self.tables}[name]
