"""Delta Lake: append-only tables on disk; exactly once by the transaction action (facts of the format)."""

from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import TableNotFoundError


class DeltaTables:
    """`Tables` on a file system."""

    def committed(self, uri: str, app: str) -> int:
        """Number of the last commit of that app; the transaction action survives log clean-up."""
        table = _open(uri)
        return 0 if table is None else (table.transaction_version(app) or 0)

    def append(self, uri: str, rows: pl.DataFrame, app: str, number: int) -> None:
        """Commit once: the same number again is left out; of two at once Delta refuses one."""
        if self.committed(uri, app) >= number:
            return
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        once = CommitProperties(app_transactions=[Transaction(app, number)])
        write_deltalake(uri, rows.to_arrow(), mode="append", schema_mode="merge", commit_properties=once)

    def scan(self, uri: str, version: int | None = None) -> pl.LazyFrame:
        """Rows at a version, in no promised order."""
        if _open(uri) is None:
            return pl.LazyFrame()
        return pl.scan_delta(uri, version=version)

    def version(self, uri: str) -> int:
        """The newest version."""
        table = _open(uri)
        return -1 if table is None else int(table.version())


def _open(uri: str) -> DeltaTable | None:
    try:
        return DeltaTable(uri)
    except TableNotFoundError:
        return None
