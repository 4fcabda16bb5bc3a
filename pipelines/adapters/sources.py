"""Sources whose content is files: a folder of real ones, or simulated drops."""

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from pipelines.errors import BadSettings, BadUseCase, ServiceAway
from pipelines.spec import Files, Simulate, Table
from pipelines.tools import Arrival, Source

QUIET_SECONDS = 60
"""A file that was changed within this time may still be written to."""


class PerTable:
    """Each table's own source, by the table's name."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources

    def arrivals(self, table: Table, now: datetime, last: str | None = None) -> Iterable[Arrival]:
        """What the table's source offers."""
        return self.sources[table.name].arrivals(table, now, last)

    def open(self, table: Table, arrival: Arrival) -> BinaryIO:
        """Its bytes."""
        return self.sources[table.name].open(table, arrival)


class FolderSource:
    """Files in a folder, matched by the table's glob, oldest change first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arrivals(self, table: Table, now: datetime, last: str | None = None) -> Sequence[Arrival]:
        """Every matching file, settled when it was left alone for a minute; BadSettings without a folder."""
        if not self.folder.is_dir():
            raise BadSettings(f"TOUCHLINE_DATA, or `at` of table {table.name}: {self.folder} is no folder")
        if not isinstance(table.source, Files):
            raise BadUseCase(f"table {table.name}: a folder holds no rows of a source of kind {table.source.kind}")
        wanted = table.source.pattern
        files = [file for file in self.folder.iterdir() if file.is_file() and fnmatch(file.name, wanted)]
        found = sorted((file.stat().st_mtime_ns, file.name, file.stat().st_size) for file in files)
        quiet = time.time_ns() - QUIET_SECONDS * 10**9
        return [
            Arrival(name=name, stamp=f"{size}-{changed}", settled=changed < quiet) for changed, name, size in found
        ]

    def open(self, table: Table, arrival: Arrival) -> BinaryIO:
        """The file's bytes."""
        return (self.folder / arrival.name).open("rb")


class BucketSource:
    """Objects below an S3 prefix, matched by the table's glob over their last name.

    Credentials are those of the usual AWS variables. An object is put
    whole, so it is settled; its mark (ETag) says when it changed, because its time knows only seconds.
    """

    def __init__(self, at: str, endpoint: str | None) -> None:
        from pyarrow import fs

        self._prefix = at.removeprefix("s3://").strip("/")
        self._bucket = fs.S3FileSystem(endpoint_override=endpoint, connect_timeout=5, request_timeout=60)

    def arrivals(self, table: Table, now: datetime, last: str | None = None) -> Sequence[Arrival]:
        """Every matching object, the oldest first; nothing below the prefix is nothing new."""
        from pyarrow import fs

        if not isinstance(table.source, Files):
            raise BadUseCase(f"table {table.name}: a bucket holds no rows of a source of kind {table.source.kind}")
        wanted = table.source.pattern
        bucket = self._prefix.partition("/")[0]
        try:
            there = self._bucket.get_file_info(bucket).type is not fs.FileType.NotFound
            below = self._bucket.get_file_info(fs.FileSelector(self._prefix, allow_not_found=True, recursive=True))
        except OSError as away:
            raise ServiceAway(f"s3://{self._prefix} cannot be listed: {str(away)[:200]}") from away
        if not there:
            raise BadUseCase(f"table {table.name}: there is no bucket s3://{bucket}")
        files = [one for one in below if one.is_file and fnmatch(one.base_name, wanted)]
        ordered = sorted(files, key=lambda one: (one.mtime_ns, one.path))
        return [Arrival(name=self._name(one.path), stamp=self._mark(one.path)) for one in ordered]

    def open(self, table: Table, arrival: Arrival) -> BinaryIO:
        """The object's bytes, as they come."""
        opened: BinaryIO = self._bucket.open_input_stream(f"{self._prefix}/{arrival.name}", compression=None)
        return opened

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self._prefix}/")

    def _mark(self, path: str) -> str:
        with self._bucket.open_input_file(path) as opened:
            told = opened.metadata()
        return " ".join(told[key].decode() for key in ("ETag", "Content-Length") if key in told)


class SimulatedSource:
    """One drop at the home's first day and one more each day, made by the use case's `simulate`."""

    def __init__(self, simulate: Simulate, seed: int, since: datetime) -> None:
        self.simulate, self.seed, self.since = simulate, seed, since

    def arrivals(self, table: Table, now: datetime, last: str | None = None) -> Sequence[Arrival]:
        """A file for each drop that is due by `now`."""
        drops = 1 + max(0, (now - self.since) // timedelta(days=1))
        return [Arrival(name=_name(table, drop), stamp=f"{self.seed}-{drop}") for drop in range(drops)]

    def open(self, table: Table, arrival: Arrival) -> BinaryIO:
        """The drop as CSV; the same seed gives the same bytes."""
        drop = int(arrival.stamp.rpartition("-")[2])
        rows = self.simulate(self.seed, drop)[table.name]
        return io.BytesIO(rows.write_csv().encode())


def _name(table: Table, drop: int) -> str:
    return f"simulated-{table.name}-{drop:05}.csv"
