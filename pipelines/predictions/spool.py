"""The spool: what a place answered, on disk before the answer leaves.

One folder a place, one file (segment) at a time. A segment is a sequence of frames: length and CRC-32
(little endian, 32 bits each), then MessagePack. Its first frame is a Header; then one frame a request.

A record is handed to the kernel before the answer is sent: it survives the death of the process
(also kill -9), not a power cut; an fsync per request would cost more than the whole answer.
The writer holds a lock on its segment as long as it lives, so a reader knows which ones are finished.
"""

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

SUFFIX = ".spool"
SHADOW = "shadow"
"""The role of a request that is asked again, for comparison."""
SEGMENT_BYTES = 16 * 2**20
TOTAL_BYTES = 512 * 2**20
"""How much one place may leave unshipped; beyond it requests are refused."""
_HEAD = struct.Struct("<II")
_LARGEST = 2**28
"""A length beyond this is a torn or foreign file, not a frame."""


class Header(msgspec.Struct, frozen=True, tag="h"):
    """What all frames of a segment share."""

    use_case: str
    place: str
    model_version: str
    bento_digest: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Predictions(msgspec.Struct, tag="p", array_like=True, gc=False):
    """The answered rows of one request, column by column; times are microseconds since 1970, UTC."""

    request_id: str
    requested_at: int
    latency_us: int
    rows: list[int]
    """Where each row stood in the request; with the request's id it names the prediction."""
    client_ids: list[str | None]
    keys: list[str | None]
    event_times: list[int | None]
    """None: the time of the request."""
    inputs: Sequence[Sequence[Any]]
    """One column a name of Header.inputs."""
    outputs: list[list[float]]
    """One list a name of Header.outputs."""
    shadow: bool = False
    decisions: list[str | None] | None = None
    """What was decided on the answer, where a decision policy exists."""
    role: str | None = None
    """What the proxy took the place for (stable, canary); None where no proxy asked."""


class Labels(msgspec.Struct, tag="l", array_like=True, gc=False):
    """Labels that arrived together: (prediction id, key, event time, actual, observed at) each."""

    received_at: int
    source: str
    rows: list[tuple[str | None, str | None, int | None, float, int]]


Record = Predictions | Labels
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Predictions | Labels).decode
_decode_header = msgspec.msgpack.Decoder(Header).decode


class SpoolFull(Exception):
    """The record could not be written; nothing of it is on disk."""


class Spool(Protocol):
    """Where a place leaves its records."""

    logged: bool

    def append(self, record: Record) -> None:
        """Write one record before its answer leaves; raises SpoolFull."""

    def close(self) -> None:
        """Finish the segment."""


class NoSpool:
    """The absent log: a bento run on its own (`bentoml serve`) answers, and says that nothing is kept."""

    logged = False

    def append(self, record: Record) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Nothing to finish."""


class FolderSpool:
    """Segments in one folder; one writer a folder at a time."""

    logged = True

    def __init__(
        self, folder: Path, header: Header, *, segment: int = SEGMENT_BYTES, total: int = TOTAL_BYTES
    ) -> None:
        """Open the first segment; the folder is made when it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._header = _framed(_encode(header))
        self._segment = segment
        self._total = total
        self._numbers = count()
        self._file = -1
        self._size = 0
        self._room = 0

    def append(self, record: Record) -> None:
        """Write one frame; raises SpoolFull when the folder is at its limit or the disk is full."""
        frame = _framed(_encode(record))
        try:
            if self._file < 0 or self._size + len(frame) > self._segment:
                self._open_next()
            self._write(frame)
        except OSError as why:
            raise SpoolFull(f"{self._folder}: {why.strerror}") from why

    def close(self) -> None:
        """Finish the segment and let go of its lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, frame: bytes) -> None:
        if len(frame) > self._room:
            self._room = self._total - sum(size for _, size in _sizes(self._folder))
            if len(frame) > self._room:
                raise SpoolFull(f"{self._folder}: {self._total} bytes wait to be shipped")
        try:
            written = os.write(self._file, frame)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        if written != len(frame):
            os.ftruncate(self._file, self._size)
            raise SpoolFull(f"{self._folder}: no space left")
        self._size += written
        self._room -= written

    def _open_next(self) -> None:
        """A segment gets its name only when it is locked and has its header."""
        self.close()
        name = f"{time.time_ns():020}-{os.getpid()}-{next(self._numbers)}"
        new = self._folder / f"{name}.new"
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._begin(file)
            new.rename(self._folder / f"{name}{SUFFIX}")
        except BaseException:
            os.close(file)
            new.unlink(missing_ok=True)
            raise
        self._file, self._size, self._room = file, len(self._header), 0

    def _begin(self, file: int) -> None:
        if os.write(file, self._header) != len(self._header):
            raise SpoolFull(f"{self._folder}: no space left")


class Frame(NamedTuple):
    """One record, and the offset behind it: where to go on."""

    record: Record
    end: int


def segments(root: Path) -> list[Path]:
    """Every segment below a folder, the oldest first."""
    return sorted(root.rglob(f"*{SUFFIX}"), key=lambda path: path.name)


def finished(segment: Path) -> bool:
    """Whether its writer is done with it or dead; ask before reading what is to be the rest."""
    with segment.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class Beginning(NamedTuple):
    """What a segment's frames share, and the offset of the first one."""

    header: Header
    end: int


def beginning(segment: Path) -> Beginning | None:
    """How the segment begins; None when that cannot be read."""
    with segment.open("rb") as file:
        found = next(_payloads(file.read(64 * 1024), 0), None)
    try:
        return Beginning(_decode_header(found[0]), found[1]) if found else None
    except msgspec.DecodeError:
        return None


def read(segment: Path, offset: int, most: int = 2**19) -> Iterator[Frame]:
    """The whole frames behind an offset, about `most` bytes of them; a torn end is left out."""
    with segment.open("rb") as file:
        file.seek(offset)
        data = file.read(most)
        if len(data) >= _HEAD.size:
            length = min(_HEAD.unpack_from(data)[0], _LARGEST) + _HEAD.size
            data += file.read(max(0, length - len(data)))
    for payload, end in _payloads(data, 0):
        yield Frame(_decode(payload), offset + end)


def read_all(root: Path) -> Iterator[Record]:
    """Every whole record below a folder, segment after segment."""
    for segment in segments(root):
        begun = beginning(segment)
        at = begun.end if begun else None
        while at is not None and (frames := list(read(segment, at))):
            yield from (frame.record for frame in frames)
            at = frames[-1].end


def _payloads(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        payload = data[at + _HEAD.size : end]
        if length > _LARGEST or end > len(data) or zlib.crc32(payload) != checksum:
            return
        yield payload, end
        at = end


def _framed(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                try:
                    yield entry.name, entry.stat().st_size
                except FileNotFoundError:
                    continue  # shipped and deleted meanwhile
