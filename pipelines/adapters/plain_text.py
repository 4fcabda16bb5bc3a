"""Bytes as they arrive, made plain: no gzip, UTF-8, line ends that a reader knows; and cut at whole records.

The encoding is that of the byte order mark, else UTF-8 where the whole file is valid UTF-8, else Windows-1252
(a guess by statistics was tried: it took short European lists for Shift JIS and Big5). What is plain already
is used as it landed; the rest lies beside it as `<digest>.plain`, which may be removed at any time.
"""

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipelines.tools import Cut, Piece, Unreadable

ROWS = 500_000
"""A batch has at most so many rows,"""
BYTES = 64 * 2**20
"""and ends with the row that passes so many bytes: what a step holds in memory follows from both."""
LONGEST = 16 * 2**20
"""No record of a table is longer; a quote that is never closed would swallow the file."""
CHUNK = 2**20
BLOCK = 2**22
"""Bytes that are looked through for line ends at once."""
Ends = NDArray[np.int64]
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"))
SHORT_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
GZIP = b"\x1f\x8b"


class NotPlain(ValueError):
    """The bytes are no text; `unfinished` where more of them may still come."""

    def __init__(self, reason: str, *, unfinished: bool = False) -> None:
        super().__init__(reason)
        self.unfinished = unfinished


class TooLong(ValueError):
    """A record has no end within `LONGEST` bytes, or none at all."""


@lru_cache(maxsize=256)
def plain(landed: Path) -> Path:
    """The file as plain UTF-8 bytes (a mark at its start stays); NotPlain says why it is no text."""
    made = landed.with_name(f"{landed.name}.plain")
    if made.exists():
        return made
    with _opened(landed) as raw:
        head = _head(raw)
        encoding = _encoding(head, raw)
        lonely_returns = b"\r" in head and b"\n" not in head and not encoding.startswith("utf-16")
    if encoding == "utf-8" and not lonely_returns and not _is_gzip(landed):
        return landed
    with (
        _opened(landed) as raw,
        NamedTemporaryFile(dir=landed.parent, prefix="plain-", suffix=".partial", delete=False) as kept,
    ):
        for text in codecs.iterdecode(_chunks(raw), encoding, "replace"):
            kept.write((text.replace("\r", "\n") if lonely_returns else text).encode())
    return Path(kept.name).replace(made)


def _opened(landed: Path) -> BinaryIO:
    return gzip.open(landed) if _is_gzip(landed) else landed.open("rb")  # type: ignore[return-value]


def _is_gzip(landed: Path) -> bool:
    with landed.open("rb") as raw:
        return raw.read(2) == GZIP


def _head(raw: BinaryIO) -> bytes:
    try:
        return raw.read(CHUNK)
    except (EOFError, OSError, zlib.error) as wrong:
        raise NotPlain(f"not a whole gzip file: {wrong}", unfinished=True) from wrong


def _encoding(head: bytes, rest: BinaryIO) -> str:
    for mark, encoding in (*MARKS, *SHORT_MARKS):
        if head.startswith(mark):
            return encoding
    found = NO_TEXT.search(head)
    if found is not None:
        raise NotPlain(f"the file is no text: byte {found.start() + 1} is 0x{head[found.start()]:02x}")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(head)
        for chunk in _chunks(rest):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _chunks(raw: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := raw.read(CHUNK):
            yield chunk
    except (EOFError, OSError, zlib.error) as wrong:
        raise NotPlain(f"not a whole gzip file: {wrong}", unfinished=True) from wrong


def lines(file: Path, start: int) -> Iterator[bytes]:
    """Lines with their ends from an offset on; TooLong where one does not end."""
    with file.open("rb") as raw:
        raw.seek(start)
        while line := raw.readline(LONGEST):
            if len(line) == LONGEST:
                raise TooLong(f"a line is longer than {LONGEST // 2**20} MB")
            yield line


def ends(file: Path, start: int, slow: Callable[[int], Iterator[bytes]], mark: bytes) -> Iterator[Ends]:
    """Offsets behind each record that has its line end, many at a time.

    A block that does not hold `mark` has a record a line; `slow` gives the records of any other, and of a line
    that is longer than a block.
    """
    with file.open("rb") as raw:
        while True:
            raw.seek(start)
            block = raw.read(BLOCK)
            stop = block.rfind(b"\n") + 1
            if stop and mark not in block:
                found = start + 1 + np.flatnonzero(np.frombuffer(block, np.uint8, stop) == ord("\n"))
            else:
                found = start + np.cumsum(list(_sizes(slow(start), len(block))), dtype=np.int64)
            if not len(found):
                return
            yield found
            start = int(found[-1])


def _sizes(records: Iterator[bytes], enough: int) -> Iterator[int]:
    """Of whole records, until so many bytes are passed."""
    while enough > 0:
        record = next(records, b"")
        if not record.endswith(b"\n"):
            return
        yield len(record)
        enough -= len(record)


def cut(file: Path, found: Iterable[Ends], start: int, first: int, *, settled: bool) -> Cut:
    """Records into pieces; the last one, where it has no line end, only when the file is settled.

    A line without its end may still be written. It waits until it has one, or until the source says that
    the file was left alone for a while; until then the file is looked at again each time.
    """
    pieces: list[Piece] = []
    stop, rows = start, 0
    for some in found:
        while len(some):
            last = min(ROWS - rows - 1, int(np.searchsorted(some, start + BYTES)), len(some) - 1)
            stop, rows = int(some[last]), rows + last + 1
            some = some[last + 1 :]
            if rows == ROWS or stop - start >= BYTES:
                pieces.append(Piece(start, stop, first, rows))
                start, first, rows = stop, first + rows, 0
    waits = stop < file.stat().st_size
    if waits and settled:
        stop, rows = file.stat().st_size, rows + 1
    if rows:
        pieces.append(Piece(start, stop, first, rows))
    return Cut(tuple(pieces), whole=settled or not waits)


def goes_on(old: Path, new: Path, at: int) -> int | None:
    """Where the new file goes on behind that offset, when it is the old one with more behind it; else None.

    What was taken up to the offset must be whole lines in both: a last line that grew is another line.
    """
    with old.open("rb") as before, new.open("rb") as after:
        if any(after.read(len(chunk)) != chunk for chunk in _chunks(before)):
            return None
        after.seek(max(at - 1, 0))
        last, behind = after.read(1), after.read(2)
    if last == b"\n":
        return at
    return next((at + len(end) for end in (b"\r\n", b"\n") if behind.startswith(end)), None)


def slice_of(file: Path, start: int, stop: int) -> bytes:
    """The bytes between two offsets."""
    with file.open("rb") as raw:
        raw.seek(start)
        return raw.read(stop - start)


def unreadable(landed: Path, reason: str, *, unfinished: bool = False) -> Unreadable:
    """A whole file refused, counted by its lines, so that nothing goes uncounted."""
    with landed.open("rb") as raw:
        lines = sum(1 for _ in raw)
    return Unreadable(reason, lines, unfinished)
