"""Delta Lake: append-only tables on disk; exactly once by the transaction action (facts of the format)."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

import polars as pl
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
"""How file systems say that a file has one name there."""
GROUP = 200_000
"""Rows that whoever reads in pieces must hold at once."""
UNASKED = ("_file", "_digest", "_hash", "_suite")
"""Texts of the lineage: no row is looked for by them, so their least and greatest are not worth finding."""


def _writing(rows: pl.DataFrame) -> WriterProperties:
    """To look for repeated values where there are none takes a fifth of the time of a commit."""
    whole = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
    unasked = {name: ColumnProperties(statistics_enabled="NONE") for name in UNASKED}
    unasked["_hash"] = ColumnProperties(statistics_enabled="NONE", dictionary_enabled=False)
    numbers = {name: whole for name, kind in rows.schema.items() if kind == pl.Int64}
    return WriterProperties(max_row_group_size=GROUP, column_properties={**unasked, **numbers})


class _Opened(NamedTuple):
    """A table as it was at one commit; never brought up to date, because readers may still look at it."""

    table: DeltaTable
    log: Path
    commit: tuple[int, int, int] | None
    """What tells the file of that commit from another one of its name; None where there is none."""

    @classmethod
    def of(cls, uri: str, table: DeltaTable) -> Self:
        """As it is now."""
        log = Path(uri, "_delta_log")
        return cls(table, log, _commit(log, table.version()))

    @property
    def is_newest(self) -> bool:
        """The commit is still the one of its number, and none follows it: the log has no gaps."""
        number = self.table.version()
        here, following = _commit(self.log, number), _commit(self.log, number + 1)
        return here is not None and here == self.commit and following is None


class DeltaTables:
    """`Tables` on a file system. A table is read from its log once for each commit, not for each question."""

    def __init__(self) -> None:
        """Nothing is opened yet."""
        self._opened: dict[str, _Opened] = {}

    def _open(self, uri: str) -> DeltaTable | None:
        """The newest version; None when there is no table."""
        opened = self._opened.get(uri)
        if opened is not None and opened.is_newest:
            return opened.table
        table = _table(uri)
        if table is not None:
            self._opened[uri] = _Opened.of(uri, table)
        return table

    def committed(self, uri: str, app: str) -> int:
        """Number of the last commit of that app; the transaction action survives log clean-up."""
        table = self._open(uri)
        return 0 if table is None else (table.transaction_version(app) or 0)

    def write(self, uri: str, rows: pl.DataFrame) -> None:
        """One commit, written as `append` writes."""
        write_deltalake(uri, rows, writer_properties=_writing(rows))

    def append(self, uri: str, rows: pl.DataFrame, app: str, number: int) -> None:
        """Commit once: the same number again is left out; of two at once Delta refuses one."""
        if self.committed(uri, app) >= number:
            return
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        table = _table(uri)  # its own: the commit moves it on
        write_deltalake(
            uri if table is None else table,
            rows,
            mode="append",
            schema_mode="merge",
            commit_properties=_once(app, number),
            writer_properties=_writing(rows),
        )
        if table is not None:
            self._opened[uri] = _Opened.of(uri, table)

    def take_over(self, uri: str, written: str, app: str, number: int) -> None:
        """Its files get a second name beside the others; where that cannot be its rows are written once more."""
        if self.committed(uri, app) >= number:
            return
        table, whole = _table(uri), self._open(written)
        if whole is None:
            raise TableNotFoundError(written)
        files = _added(written, whole.version())
        if table is None or _kinds(table) != _kinds(whole) or not _linked(files, Path(written), Path(uri)):
            self.append(uri, self.scan(written).collect(), app, number)
            return
        table.create_write_transaction(files, "append", table.schema(), commit_properties=_once(app, number))
        table.update_incremental()
        self._opened[uri] = _Opened.of(uri, table)
        del self._opened[written]

    def scan(self, uri: str, version: int | None = None) -> pl.LazyFrame:
        """Rows at a version, in no promised order."""
        table = self._open(uri)
        if table is None:
            return pl.LazyFrame()
        return pl.scan_delta(table if version in {None, table.version()} else uri, version=version)

    def where(self, uri: str, column: str, number: int) -> pl.LazyFrame:
        """By the statistics of each file; the first file of a plain scan is opened whatever it holds."""
        table = self._open(uri)
        if table is None:
            return pl.LazyFrame()
        files = pl.DataFrame(table.get_add_actions(flatten=True))
        if {f"min.{column}", f"max.{column}"} <= set(files.columns):
            outside = (pl.col(f"min.{column}") > number) | (pl.col(f"max.{column}") < number)
            files = files.filter(~outside.fill_null(False))
        found = _files(uri, files["path"].to_list(), pl.scan_delta(table).collect_schema())
        return found.filter(pl.col(column) == number)

    def version(self, uri: str) -> int:
        """The newest version."""
        table = self._open(uri)
        return -1 if table is None else int(table.version())

    def rows(self, uri: str) -> int:
        """By the statistics of each file; of files without them by their footers."""
        table = self._open(uri)
        if table is None:
            return 0
        counts = pl.DataFrame(table.get_add_actions(flatten=True))["num_records"]
        return (
            int(counts.sum()) if not counts.null_count() else int(self.scan(uri).select(pl.len()).collect().item())
        )

    def added(self, uri: str, since: int, until: int) -> pl.LazyFrame | None:
        """The files that those commits added; files that were only put together are no new rows."""
        files: list[str] = []
        for version in range(since + 1, until + 1):
            try:
                actions = _actions(uri, version)
            except FileNotFoundError:
                return None
            for action in actions:
                if action.get("remove", {}).get("dataChange"):
                    return None
                if action.get("add", {}).get("dataChange"):
                    files.append(unquote(action["add"]["path"]))
        if not all(Path(uri, file).exists() for file in files):
            return None
        return _files(uri, files, self.scan(uri, until).collect_schema())

    def tidy(self, uri: str, most: int) -> None:
        """Compaction: a commit that moves rows; older versions keep their files, transactions stay.

        Delta refuses the second of two appends at once, but of two compactions it takes both, and the rows are
        there twice (deltalake 1.6.6; a test shows it). So one works at a time, from what the table is then; the
        system takes the lock from a killed one. An append at the same time is no harm.
        """
        table = self._open(uri)
        if table is None or len(table.file_uris()) <= most:
            return
        with Path(f"{uri}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            DeltaTable(uri).optimize.compact(max_concurrent_tasks=1)


def _files(uri: str, files: list[str], schema: pl.Schema) -> pl.LazyFrame:
    """Some of a table's files; older ones lack the columns that came later."""
    if not files:
        return pl.LazyFrame(schema=schema)
    return pl.scan_parquet([Path(uri, file) for file in files], schema=schema, missing_columns="insert")


def _commit(log: Path, number: int) -> tuple[int, int, int] | None:
    try:
        file = (log / f"{number:020}.json").stat()
    except FileNotFoundError:
        return None
    return file.st_ino, file.st_size, file.st_mtime_ns


def _once(app: str, number: int) -> CommitProperties:
    return CommitProperties(app_transactions=[Transaction(app, number)])


def _actions(uri: str, version: int) -> list[dict[str, Any]]:
    """What one commit says; FileNotFoundError where the log does not tell it any more."""
    return [*map(json.loads, Path(uri, "_delta_log", f"{version:020}.json").read_text().splitlines())]


def _added(uri: str, version: int) -> list[AddAction]:
    """The files of one commit, with what the log says of them."""
    return [
        AddAction(unquote(add["path"]), add["size"], {}, add["modificationTime"], add["dataChange"], add["stats"])
        for add in (action["add"] for action in _actions(uri, version) if "add" in action)
    ]


def _linked(files: list[AddAction], lie: Path, belong: Path) -> bool:
    """Whether all lie there too by now; a run that was killed before its commit may have done it."""
    try:
        for file in files:
            if not (belong / file.path).exists():
                os.link(lie / file.path, belong / file.path)
    except OSError as wrong:
        if wrong.errno not in NO_LINKS:
            raise
        return False
    return True


def _kinds(table: DeltaTable) -> dict[str, str]:
    return {field.name: field.to_json() for field in table.schema().fields}


def _table(uri: str) -> DeltaTable | None:
    try:
        return DeltaTable(uri)
    except TableNotFoundError:
        return None
