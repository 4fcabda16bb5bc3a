"""In-memory doubles of the services, for tests and for looking around; each passes its adapter's contract test."""

import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from pipelines import rows
from pipelines.catalog import Found
from pipelines.errors import BadRelease, Busy
from pipelines.serving import predictor
from pipelines.spec import Columns, Outputs, UseCase
from pipelines.tools import EntityLabel, Evidence, Modeller, Notice, RunRecord


class MemoryTracker:
    """Runs as folders below one folder."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.keys: dict[tuple[str, str], str] = {}
        self.notes: dict[str, dict[str, str]] = {}

    def find(self, use_case: str, training_key: str) -> str | None:
        """The run of that key."""
        return self.keys.get((use_case, training_key))

    def log(self, use_case: UseCase, run: RunRecord) -> str:
        """Keep the run's folder."""
        run_id = f"run{len(self.keys) + 1}"
        shutil.copytree(run.folder, self.at / run_id)
        self.keys[use_case.name, run.training_key] = run_id
        return run_id

    def folder(self, run_id: str) -> Path:
        """The kept folder."""
        return self.at / run_id

    def note(self, run_id: str, facts: Mapping[str, str]) -> None:
        """Remember facts."""
        self.notes.setdefault(run_id, {}).update(facts)


class MemoryRegistry:
    """Versions by number."""

    def __init__(self) -> None:
        self.runs: dict[str, list[str]] = {}
        self.pointers: dict[str, dict[str, str]] = {}

    def register(self, use_case: UseCase, run_id: str, facts: Mapping[str, str]) -> str:
        """Number the run once."""
        runs = self.runs.setdefault(use_case.name, [])
        if run_id not in runs:
            runs.append(run_id)
        return str(runs.index(run_id) + 1)

    def aliases(self, use_case: str) -> dict[str, str]:
        """Version by alias."""
        return dict(self.pointers.get(use_case, {}))

    def point(self, use_case: str, alias: str, version: str | None) -> None:
        """Move the alias."""
        pointers = self.pointers.setdefault(use_case, {})
        pointers.pop(alias, None)
        if version is not None:
            pointers[alias] = version

    def run_of(self, use_case: str, version: str) -> str | None:
        """The version's run."""
        every = {str(number): run for number, run in enumerate(self.runs.get(use_case, []), 1)}
        if version not in every:
            raise BadRelease(f"{use_case} has no version {version}")
        return every[version]


class MemoryEvidence:
    """Evidence by training key."""

    def __init__(self) -> None:
        self.book: dict[str, Evidence] = {}

    def add(self, evidence: Evidence) -> Evidence:
        """The first under a key stays."""
        return self.book.setdefault(evidence.training_key, evidence)

    def amend(self, training_key: str, **fields: object) -> Evidence:
        """Set fields."""
        self.book[training_key] = self.book[training_key].model_copy(update=fields)
        return self.book[training_key]

    def by_key(self, training_key: str) -> Evidence | None:
        """The record of that key."""
        return self.book.get(training_key)

    def by_version(self, use_case: str, version: str) -> Evidence | None:
        """The record of that version."""
        found = (each for each in self.book.values() if (each.use_case, each.version) == (use_case, version))
        return next(found, None)

    def candidates(self, use_case: str) -> list[Evidence]:
        """In the order in which they came."""
        return [each for each in self.book.values() if each.use_case == use_case]

    def versions(self, use_case: str) -> list[Evidence]:
        """Those that became a version, oldest first."""
        found = (each for each in self.book.values() if each.use_case == use_case and each.version)
        return sorted(found, key=lambda each: int(each.version or 0))


class MemoryClaims:
    """When each thing was labelled last goes in, claims come out."""

    def __init__(self) -> None:
        self.labelled: dict[str, dict[str, datetime]] = {}
        self.claims: dict[tuple[str, datetime], int] = {}

    def claim(self, use_case: str, trained_at: datetime, now: datetime, enough: int) -> int:
        """Count what came since the later of training and last claim."""
        if (use_case, now) in self.claims:
            return self.claims[use_case, now]
        before = [at for name, at in self.claims if name == use_case]
        since = max([trained_at, *before])
        n = sum(since < at <= now for at in self.labelled.get(use_case, {}).values())
        if n >= enough:
            self.claims[use_case, now] = n
        return n


class MemoryLabelBook:
    """Labels in the order in which they came, each with the use case and table that told it."""

    def __init__(self) -> None:
        self.batches: dict[tuple[str, str], int] = {}
        self.kept: list[tuple[tuple[str, str], EntityLabel]] = []

    def handed(self, use_case: str, table: str) -> int:
        """The last batch."""
        return self.batches.get((use_case, table), 0)

    def hand(self, use_case: str, table: str, batch: int, labels: Sequence[EntityLabel]) -> None:
        """Keep them once."""
        if batch > self.handed(use_case, table):
            self.batches[use_case, table] = batch
            self.kept += [((use_case, table), one) for one in labels]


class MemoryNotices:
    """Notices by key."""

    def __init__(self) -> None:
        self.book: dict[str, Notice] = {}

    def untold(self, key: str) -> bool:
        """Whether it is not there."""
        return key not in self.book

    def told(self, notice: Notice, at: datetime) -> None:
        """The first stays."""
        self.book.setdefault(notice.key, notice)


class MemoryLocks:
    """One lock a name, in this process."""

    def __init__(self) -> None:
        self.held: dict[str, Lock] = {}

    @contextmanager
    def hold(self, name: str) -> Generator[None]:
        """Hold it; Busy at once when it is held."""
        lock = self.held.setdefault(name, Lock())
        if not lock.acquire(blocking=False):
            raise Busy(f"{name}: another run holds it")
        try:
            yield
        finally:
            lock.release()


class HereScorer:
    """Runs releases in this process, in the code of this process."""

    def __init__(self, use_case: UseCase, modeller: Modeller) -> None:
        self.use_case, self.modeller = use_case, modeller

    def score(self, model: Path, columns: Columns) -> Outputs:
        """ONNX parts."""
        return predictor.load(model / "release", self.use_case).answer(columns)

    def offline(self, model: Path, columns: Columns) -> Outputs:
        """Boosters."""
        manifest = predictor.read_manifest(model / "release")
        return self.modeller.answer(self.use_case, manifest, model / "release", columns)


class HereBuilder:
    """A bento is the release's folder; asked in this process."""

    def __init__(self) -> None:
        self.built: dict[str, Path] = {}

    def build(self, found: Found, model: Path, version: str, evidence: Mapping[str, Any]) -> tuple[str, str]:
        """Name the folder."""
        tag = f"{found.name}:v{version}"
        self.built[tag] = model
        return tag, predictor.read_manifest(model / "release").training_key

    def ask(self, use_case: UseCase, tag: str, rows_: Sequence[Mapping[str, object]]) -> Outputs:
        """Answer the rows."""
        answering = predictor.load(self.built[tag] / "release", use_case)
        cells = {
            field.name: rows.column(field, [row.get(field.name) for row in rows_]) for field in use_case.inputs
        }
        return {name: np.asarray(values, np.float64) for name, values in answering.answer(cells).items()}
