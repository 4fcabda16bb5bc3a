"""Which keys a table has published: sorted runs of their hashes, so that no published row is read to find one.

The index is derived: `known` makes it of committed rows, and anew when it is missing, torn or of another table.
An entry is 48 bytes, six whole numbers of 64 bits: two halves of the key's hash, two of the content's, the
revision in force, and the newest place that the key came from. A run is a file of entries in the order of their
hashes, each key once. New entries are a new run; `FAN` runs of one size are merged to one, so an entry is written
a few times in all, and a look-up reads a few pages of each run. (SQLite would need less code here; it took five
times as long to take in 200,000 keys behind two million.)

Nothing waits for the disk: beside a small run that would write out megabytes of rows which lie in memory. A kill
loses nothing of what is written, a loss of power may: so an index that another start of the machine left is
compared with its checksums before it is believed.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipelines.boot import boot
from pipelines.spec import Frozen

Entries = NDArray[np.uint64]
"""(n, 6): key, key, content, content, revision, place."""
Keys = NDArray[np.uint64]
"""(n, 2): two independent hashes of 64 bits; together they stand for the key."""
WIDTH = 6
BYTES = 8 * WIDTH
KEY, CONTENT, REVISION, PLACE = slice(0, 2), slice(2, 4), 4, 5
ROW_BITS = 40
"""A batch has fewer rows than these bits can count: batch and row are one number."""
_BITS = np.uint64(ROW_BITS)
PIECE = 2**17
"""Entries that a merge holds of each run at once."""
MANIFEST = "index.json"
FAN = 6
FEW = 64
"""Below one key in so many entries a look-up reads only the pages that it needs."""
BITS_UP_TO = 2
"""Up to so many entries for each key that is looked for, first bits tell which keys cannot be there."""
SPARSE = 4
"""Bits more than count the entries: of the keys that are not there one in sixteen is looked for all the same."""
UNOWNED_SECONDS = 24 * 3600


class RunFile(Frozen):
    """One run on disk."""

    file: str
    entries: int
    checksum: int
    """CRC-32 of its bytes."""


class Held(Frozen):
    """`index.json`: what the index speaks of; it is replaced as a whole."""

    layout: str
    """How keys were hashed; an index of another layout is made anew."""
    version: int
    """Version of the table up to which every row is in a run."""
    rows: int
    """How many rows the table had then."""
    boot: str = ""
    """The start of the machine that wrote it: as long as that lasts, what was written is there."""
    runs: tuple[RunFile, ...] = ()
    """The oldest and biggest first."""


def place(batch: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Batch and row as one number in the order of arrival."""
    return (batch.astype(np.uint64) << _BITS) | row.astype(np.uint64)


def entries(key: Keys, content: Keys, revision: NDArray[np.int32] | int, places: NDArray[np.uint64]) -> Entries:
    """What the index is to know of rows, in their order."""
    made = np.empty((len(key), WIDTH), np.uint64)
    made[:, KEY], made[:, CONTENT], made[:, REVISION], made[:, PLACE] = key, content, revision, places
    return made


def placed(places: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Batch and row again."""
    row = places & ((np.uint64(1) << _BITS) - np.uint64(1))
    return (places >> _BITS).astype(np.int64), row.astype(np.int64)


class KeyIndex:
    """An index in a folder. Runs never change; what the manifest does not name does not exist."""

    def __init__(self, folder: Path, held: Held, runs: Sequence[Entries] = ()) -> None:
        self.folder = folder
        self.held = held
        self.runs = tuple(runs)

    @classmethod
    def opened(cls, folder: Path, layout: str) -> "KeyIndex | None":
        """What is kept; None where it is missing, torn, or of another layout."""
        try:
            held = Held.model_validate_json((folder / MANIFEST).read_bytes())
            runs = [_mapped(folder / run.file, run.entries) for run in held.runs]
            if not held.boot or held.boot != boot():
                _compare(held.runs, runs)
        except (OSError, ValidationError, _Torn):
            return None
        return cls(folder, held, runs) if held.layout == layout else None

    def find(self, keys: Keys) -> Entries:
        """The newest entry of each key, (n, 6) in the keys' order; revision 0 where there is none."""
        found = np.zeros((len(keys), WIDTH), np.uint64)
        some = np.arange(len(keys))
        if sum(map(len, self.runs)) <= BITS_UP_TO * len(keys):
            some = np.flatnonzero(may_be_among(keys[:, 0], [run[:, 0] for run in self.runs]))
        order = some[np.argsort(keys[some, 0])]
        asked = keys.take(order, axis=0)
        for run in self.runs:
            hits, places = _hits(run, asked)
            if not len(hits):
                continue
            entries, rows = run[places], order[hits]
            newer = entries[:, REVISION] > found[rows, REVISION]
            latest = np.maximum(found[rows, PLACE], entries[:, PLACE])
            found[rows[newer]] = entries[newer]
            found[rows, PLACE] = latest
        return found

    def with_runs(self, parts: Sequence[Entries]) -> "KeyIndex":
        """The index with runs that are in memory only."""
        return KeyIndex(self.folder, self.held, [*self.runs, *parts])

    def extended(self, parts: Iterable[Entries], version: int, rows: int) -> "KeyIndex":
        """The index with these entries too, which are of rows up to that version; kept when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        runs = list(zip(self.held.runs, self.runs, strict=True))
        for part in parts:
            if not len(part):
                continue
            runs.append(self._run(iter((newest(part),))))
            while (same := _alike([len(entries) for _, entries in runs])) >= FAN:
                runs[-same:], merged = [], runs[-same:]
                runs.append(self._run(_merged([entries for _, entries in merged])))
                self._forget({file.file for file, _ in merged} - self._named)
        files = tuple(file for file, _ in runs)
        extended = KeyIndex(
            self.folder,
            Held(layout=self.held.layout, version=version, rows=rows, boot=boot(), runs=files),
            [entries for _, entries in runs],
        )
        self._replace_by(extended)
        return extended

    @property
    def _named(self) -> set[str]:
        return {run.file for run in self.held.runs}

    def _run(self, pieces: Iterable[Entries]) -> tuple[RunFile, Entries]:
        """A run on disk; its name is its own, so that two at once never write one file."""
        file = self.folder / f"{uuid.uuid4().hex}.run"
        entries, checksum = 0, 0
        with file.open("wb") as out:
            for piece in pieces:
                out.write(whole := np.ascontiguousarray(piece).data)
                entries, checksum = entries + len(piece), crc32(whole, checksum)
        return RunFile(file=file.name, entries=entries, checksum=checksum), _mapped(file, entries)

    def _replace_by(self, later: "KeyIndex") -> None:
        """The manifest's name says what counts; what was only this index's goes, and what killed runs left."""
        partial = self.folder / f"{uuid.uuid4().hex}.partial"
        partial.write_text(later.held.model_dump_json(indent=1))
        partial.replace(self.folder / MANIFEST)
        self._forget(self._named - later._named)
        old = time.time() - UNOWNED_SECONDS
        unowned = {
            file.name for file in self.folder.iterdir() if file.name != MANIFEST and file.stat().st_mtime < old
        }
        self._forget(unowned - later._named)

    def _forget(self, files: set[str]) -> None:
        """Who still reads a file goes on reading it."""
        for file in files:
            (self.folder / file).unlink(missing_ok=True)


class _Torn(ValueError):
    """A run does not have the bytes that it should have."""


def _mapped(file: Path, entries: int) -> Entries:
    if file.stat().st_size != entries * BYTES:
        raise _Torn(f"{file} has {file.stat().st_size} bytes, not {entries * BYTES}")
    return np.memmap(file, np.uint64, mode="r", shape=(entries, WIDTH))


def _compare(files: Sequence[RunFile], runs: Sequence[Entries]) -> None:
    for file, run in zip(files, runs, strict=True):
        if crc32(run.data) != file.checksum:
            raise _Torn(f"{file.file} does not hold what was written")


def newest(entries: Entries) -> Entries:
    """Of each key one entry in the order of keys: the newest revision with its content, and the newest place."""
    firsts = np.ascontiguousarray(entries[:, 0])
    if (firsts[1:] > firsts[:-1]).all():
        return entries
    ordered: Entries = entries.take(np.argsort(firsts), axis=0)
    if not (ordered[1:, 0] == ordered[:-1, 0]).any():
        return ordered
    ordered = entries[np.lexsort((entries[:, REVISION], entries[:, 1], entries[:, 0]))]
    starts = np.flatnonzero(np.append(True, (ordered[1:, KEY] != ordered[:-1, KEY]).any(axis=1)))
    kept: Entries = ordered[np.append(starts[1:], len(ordered)) - 1]
    kept[:, PLACE] = np.maximum.reduceat(ordered[:, PLACE], starts)
    return kept


def _alike(sizes: Sequence[int]) -> int:
    """How many of the newest runs are no bigger than the newest one, by powers of `FAN`."""
    tiers = [int(np.log(size) / np.log(FAN)) for size in reversed(sizes)]
    return sum(1 for _ in takewhile(lambda tier: tier <= tiers[0], tiers))


def _merged(runs: Sequence[Entries]) -> Iterator[Entries]:
    """Several runs as one, in pieces; entries of one key fall into one piece: it begins at a key's first half."""
    biggest = max(runs, key=len)
    borders = np.unique(np.asarray(biggest[PIECE::PIECE, 0]))
    cuts = [pairwise([0, *_place_of(_firsts(run, len(borders)), borders).tolist(), len(run)]) for run in runs]
    for parts in zip(*cuts, strict=True):
        yield newest(np.concatenate([run[slice(*part)] for run, part in zip(runs, parts, strict=True)]))


def _hits(run: Entries, asked: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of the sorted keys a run has, and where."""
    firsts = _firsts(run, len(asked))
    rows = np.arange(len(asked))
    places = _place_of(firsts, asked[:, 0])
    hits, found = [], []
    while len(rows):
        near = places < len(run)
        rows, places = rows[near], places[near]
        same = firsts[places] == asked[rows, 0]
        rows, places = rows[same], places[same]
        whole = run[places, 1] == asked[rows, 1]
        hits.append(rows[whole])
        found.append(places[whole])
        # another key with the same first half stands here: the next one may be it
        rows, places = rows[~whole], places[~whole] + 1
    return np.concatenate([np.empty(0, np.intp), *hits]), np.concatenate([np.empty(0, np.intp), *found])


def may_be_among(values: NDArray[np.uint64], others: Sequence[NDArray[np.uint64]]) -> NDArray[np.bool_]:
    """Which values have their first bits in common with one of the others; all that are equal to one have."""
    bits = sum(map(len, others)).bit_length() + SPARSE
    shift = np.uint64(64 - bits)
    begins = np.zeros(1 << bits, np.bool_)
    for some in others:
        begins[some >> shift] = True
    found: NDArray[np.bool_] = begins[values >> shift]
    return found


def _firsts(run: Entries, asked: int) -> NDArray[np.uint64]:
    """The first halves of a run's keys; side by side, and so read as a whole, where many are asked for."""
    return np.ascontiguousarray(run[:, 0]) if asked * FEW > len(run) else run[:, 0]


def _place_of(firsts: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.intp]:
    """`searchsorted`; NumPy's own copies what does not lie side by side."""
    if firsts.flags.c_contiguous:
        return np.searchsorted(firsts, values)
    low = np.zeros(len(values), np.intp)
    high = np.full(len(values), len(firsts), np.intp)
    for _ in range(len(firsts).bit_length()):
        middle = np.minimum((low + high) // 2, max(len(firsts) - 1, 0))
        less = (firsts[middle] < values) & (low < high)
        low, high = np.where(less, middle + 1, low), np.where(less, high, np.minimum(middle, high))
    return low
