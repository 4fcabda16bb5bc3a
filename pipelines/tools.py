"""The seams: what the steps need from the outside world."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.catalog import Found
from pipelines.records import CheckVerdict, CleanSnapshot, GateVerdict, Manifest
from pipelines.spec import Columns, Frozen, Outputs, Table, UseCase

if TYPE_CHECKING:
    import polars as pl

Values = NDArray[np.float64]


class Arrival(Frozen):
    """A file that a source offers, or what it read after its cursor."""

    name: str
    stamp: str
    """Changes when the content may have changed; of a source with a cursor: where to go on."""
    settled: bool = True
    """False while it may still be written to: then a last line without its end waits."""


class Source(Protocol):
    """Where new rows come from."""

    def arrivals(self, table: Table, now: datetime, last: str | None = None) -> Iterable[Arrival]:
        """What there is for that table, oldest first; `last` is the stamp that was taken in last.

        A source with a cursor offers what lies behind it. Its cursor is kept nowhere else than in the
        intents, in the commit that names the rows (law L2).
        """

    def open(self, table: Table, arrival: Arrival) -> BinaryIO:
        """The bytes of an arrival that was just offered; the caller closes them."""


class Piece(NamedTuple):
    """What one batch takes of a file."""

    start: int
    """Bytes of the plain file; in Parquet rows."""
    stop: int
    first: int
    """Position of its first row among all of the file, from 1."""
    rows: int


class Cut(NamedTuple):
    """A file as pieces."""

    pieces: tuple[Piece, ...]
    whole: bool
    """False: a last line waits for its end."""


class Torn(NamedTuple):
    """A line that is no row."""

    row: int
    """Position among the data rows, from 1."""
    reason: str
    text: str


class Content(NamedTuple):
    """A piece's rows, with their positions in `_row`; torn lines apart."""

    rows: "pl.DataFrame"
    """Cells as text, or numbers where a reader saw that every cell of a declared column is plainly one."""
    text: "Callable[[], pl.DataFrame]"
    """The same rows as they came, every cell as text."""
    torn: tuple[Torn, ...] = ()

    @classmethod
    def of(cls, text: "pl.DataFrame", torn: Iterable[Torn] = ()) -> Self:
        """Rows that are text."""
        return cls(text, lambda: text, tuple(torn))


class Unreadable(NamedTuple):
    """A file that is no table."""

    reason: str
    total: int
    """Its lines, so that nothing goes uncounted."""
    unfinished: bool = False
    """It may become one, when more of it comes."""


class Reader(Protocol):
    """Reads landed files."""

    def cut(self, landed: Path, table: Table, since: tuple[int, int], *, settled: bool) -> Cut | Unreadable:
        """Pieces behind (offset, row), or why the file is no table; (0, 1) is its beginning."""

    def read(self, landed: Path, table: Table, piece: Piece | None) -> Content | Unreadable:
        """The rows of one piece; None: of the whole file."""

    def goes_on(self, old: Path, new: Path, at: int) -> int | None:
        """Where the new file goes on, when it is the old one with more behind that offset; else None."""


class Tables(Protocol):
    """Append-only tables; a commit carries (app, number), so that it happens once."""

    def committed(self, uri: str, app: str) -> int:
        """Number of the last commit of that app; 0 before the first."""

    def write(self, uri: str, rows: "pl.DataFrame") -> None:
        """Lay the rows down as a new table of one commit."""

    def append(self, uri: str, rows: "pl.DataFrame", app: str, number: int) -> None:
        """Commit the rows under (app, number); nothing when that number is committed already."""

    def take_over(self, uri: str, written: str, app: str, number: int) -> None:
        """Commit all rows of a table that was written and is used up; the same again is left out as well."""

    def scan(self, uri: str, version: int | None = None) -> "pl.LazyFrame":
        """The table's rows at a version (newest when None); no rows when there is no table."""

    def where(self, uri: str, column: str, number: int) -> "pl.LazyFrame":
        """The newest version's rows with that number, of the files that may hold it; no rows without a table."""

    def version(self, uri: str) -> int:
        """The newest version; -1 when there is no table."""

    def rows(self, uri: str) -> int:
        """How many rows the newest version has, by its log alone."""

    def added(self, uri: str, since: int, until: int) -> "pl.LazyFrame | None":
        """The rows of the commits behind `since`, up to `until`; None where the log does not tell any more."""

    def tidy(self, uri: str, most: int) -> None:
        """Put the rows of many small files into few where there are more than `most`; no row changes."""


class Finding(Frozen):
    """One rule that did not hold."""

    rule: str
    reason: str
    severity: str
    rows: tuple[int, ...] | None
    """Positions of the broken rows; None for a rule about the batch."""
    asked: bool = True
    """False where the rule could not be asked of these rows, as when its column is not there."""


class Validator(Protocol):
    """Judges rows by a suite of expectations; several threads may ask at once."""

    def validate(
        self,
        rows: "pl.DataFrame",
        suite: Path,
        parameters: Mapping[str, str],
        *,
        without: Sequence[str] = (),
        page: Path | None = None,
    ) -> tuple[Finding, ...]:
        """Every rule that did not hold; a page for people is kept where one is asked for.

        `without` names columns that these rows need not have (the target, when serving): rules about them
        are left out.
        """


class Tracker(Protocol):
    """Remembers training runs."""

    def find(self, use_case: str, training_key: str) -> str | None:
        """Id of the finished run with that key."""

    def log(self, use_case: UseCase, run: "RunRecord") -> str:
        """Store a finished run with its model; return its id."""

    def folder(self, run_id: str) -> Path:
        """The run's model on local disk: `release/` beside the code that it was trained with, `code/`."""

    def note(self, run_id: str, facts: Mapping[str, str]) -> None:
        """Copy facts to where people look at the run."""


class Registry(Protocol):
    """Versions and aliases: the wish."""

    def register(self, use_case: UseCase, run_id: str, facts: Mapping[str, str]) -> str:
        """The version made from that run; made once."""

    def aliases(self, use_case: str) -> dict[str, str]:
        """Version by alias."""

    def point(self, use_case: str, alias: str, version: str | None) -> None:
        """Move an alias; None takes it away."""

    def run_of(self, use_case: str, version: str) -> str | None:
        """The run that a version was made from; BadRelease where there is no such version."""


class Evidence(Frozen):
    """What is recorded of a candidate, in the order in which it came to be (contract C4)."""

    training_key: str
    use_case: str
    run_id: str
    snapshot: CleanSnapshot
    code_digest: str
    git_commit: str | None
    lock_digest: str
    seed: int
    metrics: dict[str, float]
    created_at: datetime
    gate: GateVerdict | None = None
    version: str | None = None
    bento_tag: str | None = None
    bento_digest: str | None = None
    check: CheckVerdict | None = None
    promotion_asked_at: datetime | None = None
    promotion_settled: str | None = None
    """How the request ended: `served`, or why it was not carried out."""

    def carried(self) -> dict[str, Any]:
        """What a bento says of itself wherever it is taken: what is known when it is built."""
        later = {"version", "bento_tag", "bento_digest", "check", "promotion_asked_at", "promotion_settled"}
        return self.model_dump(mode="json", exclude=later)

    @property
    def may_serve(self) -> bool:
        """Law L3: gate and check passed, and there is a bento."""
        passed = self.gate is not None and self.gate.passed and self.check is not None and self.check.passed
        return passed and self.bento_tag is not None


class Event(Frozen):
    """Something that a person should be able to read later."""

    at: datetime
    use_case: str
    kind: str
    message: str


class Notice(Frozen):
    """What a person must hear of, once."""

    key: str
    """Names the cause: the same key is told once."""
    severity: Literal["info", "warning", "failure"]
    title: str
    body: str
    """What happened, and what to do."""


class Notifier(Protocol):
    """Reaches a person."""

    def notify(self, notice: Notice) -> None:
        """Tell it now; ServiceAway when it could not be told, so that it is tried again."""


class NoticeBook(Protocol):
    """Remembers what was told."""

    def untold(self, key: str) -> bool:
        """Whether nobody was told of that cause yet."""

    def told(self, notice: Notice, at: datetime) -> None:
        """Somebody was told."""


class EvidenceBook(Protocol):
    """The record of candidates; the training key is unique in it."""

    def add(self, evidence: Evidence) -> Evidence:
        """Insert, or return what another run inserted first under the same key."""

    def amend(self, training_key: str, **fields: object) -> Evidence:
        """Set fields of a record; ServiceAway when the database is."""

    def by_key(self, training_key: str) -> Evidence | None:
        """The record of that key."""

    def by_version(self, use_case: str, version: str) -> Evidence | None:
        """The record of that version."""

    def candidates(self, use_case: str) -> list[Evidence]:
        """Every record of a use case, oldest first."""

    def versions(self, use_case: str) -> Sequence[Evidence]:
        """Every candidate that became a version, oldest first."""


class LabelClaims(Protocol):
    """Which labels asked for a training already."""

    def claim(self, use_case: str, trained_at: datetime, now: datetime, enough: int) -> int:
        """How many things were labelled since the training or the last claim; enough of them are claimed.

        The same `now` again gives the same number, so that a repeated task says the same.
        """


class EntityLabel(NamedTuple):
    """What really happened to an entity, as a table tells it."""

    key: str
    actual: float
    event_time: datetime | None
    observed_at: datetime
    received_at: datetime


class LabelBook(Protocol):
    """Labels that tables tell; a batch of a table is handed over once."""

    def handed(self, use_case: str, table: str) -> int:
        """Number of the last batch that was handed over; 0 before the first."""

    def hand(self, use_case: str, table: str, batch: int, labels: Sequence[EntityLabel]) -> None:
        """Keep labels and that batch, together or not at all; nothing when it was handed over already."""


class Scorer(Protocol):
    """Runs releases in the code that they carry."""

    def score(self, model: Path, columns: Columns) -> Outputs:
        """Answers of a tracked model's release in its own code, n rows."""

    def offline(self, model: Path, columns: Columns) -> Outputs:
        """Answers of the same release by the training library."""


class Builder(Protocol):
    """Makes bentos and starts them as they will be served."""

    def build(self, found: Found, model: Path, version: str, evidence: Mapping[str, Any]) -> tuple[str, str]:
        """(tag, digest) of the bento of that version, which carries the evidence; built once."""

    def ask(self, use_case: UseCase, tag: str, rows: Sequence[Mapping[str, object]]) -> Outputs:
        """Start the bento as a place, ask it row by row and in a batch, stop it."""


class Pieces(Protocol):
    """Rows on disk, in their order."""

    @property
    def columns(self) -> Columns:
        """All inputs; a column is read when it is asked for."""

    @property
    def folder(self) -> Path:
        """Where more may be put for as long."""

    def __iter__(self) -> Iterator[tuple[Columns, Columns]]:
        """Inputs and targets of each piece."""


class Modeller(Protocol):
    """The training library."""

    def fit(self, use_case: UseCase, columns: Columns, targets: Columns, folder: Path) -> Manifest:
        """Train all parts on n rows into the release's folder; the manifest's lineage is still empty."""

    def fit_by_pieces(self, use_case: UseCase, pieces: "Pieces", folder: Path) -> Manifest:
        """The same from rows on disk: the same model, with one piece in memory at a time."""

    def answer(self, use_case: UseCase, manifest: Manifest, folder: Path, columns: Columns) -> Outputs:
        """The offline model's outputs for n rows."""

    def draw(self, use_case: UseCase, manifest: Manifest, folder: Path, outputs: Outputs, actual: Values) -> None:
        """Pictures of the held-out rows and of the parts, into `folder/plots`."""


class Locks(Protocol):
    """Keeps runs of the same step apart, on all machines."""

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock; Busy when another holds it for too long."""


class RunRecord(Frozen):
    """A finished training run, on disk."""

    training_key: str
    folder: Path
    """`release/`, `code/`, `plots/` and `tables/`."""
    parameters: dict[str, str]
    metrics: dict[str, float]
    facts: dict[str, str]
    data: str
    """Name of the data set: the snapshot's digest."""
    data_uri: str


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Every outside service that a step may use."""

    found: Found
    lock: Path
    """The hash-locked requirements."""
    tables_at: str
    landing: Path
    snapshots: Path
    docs: Path
    """Rendered pages of validations, one folder a table."""
    source: Source
    reader: Reader
    tables: Tables
    validator: Validator
    modeller: Modeller
    tracker: Tracker
    registry: Registry
    evidence: EvidenceBook
    claims: LabelClaims
    labels: LabelBook
    scorer: Scorer
    builder: Builder
    locks: Locks
    training_memory: int | None = None
    """MiB that a training may take; None: what it takes."""
