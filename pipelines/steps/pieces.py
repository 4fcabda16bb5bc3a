"""Rows of a snapshot on disk, for a training that must not hold them all in memory."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from numpy.typing import NDArray

from pipelines import lake, rows
from pipelines.records import CleanSnapshot
from pipelines.scratch import scratch
from pipelines.spec import Columns, UseCase
from pipelines.tools import Tools

AT_ONCE = 200_000
"""Rows of a piece."""
COPIES = 4
"""Bytes that a training in memory takes at its peak for each byte of inputs (measured: 4M rows of 20)."""
PROGRAM = 400
"""MiB that a process takes before it has any rows."""
MIB = 2**20


def too_many(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> bool:
    """Whether the rows are more than memory is given for, and the use case can do with pieces."""
    if tools.training_memory is None or not use_case.in_pieces:
        return False
    needed = max(snapshot.rows.values()) * len(use_case.inputs) * 8 * COPIES
    return needed > (tools.training_memory - PROGRAM) * MIB


class ColumnsOnDisk(Mapping[str, NDArray[Any]]):
    """`Columns` of which one is read when it is asked for, and none is kept."""

    def __init__(self, use_case: UseCase, files: tuple[Path, ...]) -> None:
        self.use_case = use_case
        self.fields = {field.name: field for field in use_case.inputs}
        self.files = files

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The whole column, (n,)."""
        cells = pl.scan_parquet([*self.files]).select(self.fields[name].name).collect()
        alone = self.use_case.model_copy(update={"inputs": (self.fields[name],)})
        return rows.columns_of(alone, cells)[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the inputs."""
        return iter(self.fields)

    def __len__(self) -> int:
        """How many inputs."""
        return len(self.fields)


class Pieces(NamedTuple):
    """Assembled rows in files, in their order."""

    use_case: UseCase
    files: tuple[Path, ...]
    folder: Path
    """Where more may be put that is needed as long as these."""

    @property
    def columns(self) -> Columns:
        """All inputs, one at a time."""
        return ColumnsOnDisk(self.use_case, self.files)

    def __iter__(self) -> Iterator[tuple[Columns, Columns]]:  # type: ignore[override]
        """Inputs and targets of each piece."""
        for file in self.files:
            some = pl.read_parquet(file)
            yield rows.columns_of(self.use_case, some), rows.targets_of(self.use_case, some)


@contextmanager
def parted(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot) -> Generator[tuple[Pieces, Pieces]]:
    """Rows to learn from and rows to judge by, as long as the context lasts."""
    with scratch("pieces") as folder:
        whole = _assembled(tools, use_case, snapshot, folder)
        learnt, judged = _parted(use_case, whole, folder)
        whole.unlink()
        yield learnt, judged


def _assembled(tools: Tools, use_case: UseCase, snapshot: CleanSnapshot, folder: Path) -> Path:
    """One file; the tables that it was made of are gone again."""
    tables = {}
    for name, version in snapshot.versions.items():
        (folder / name).mkdir()
        at = lake.TableAt(tools.tables_at, use_case.table(name))
        for place, some in enumerate(lake.in_force_by_pieces(tools.tables, at, snapshot.as_of, version, AT_ONCE)):
            some.write_parquet(folder / name / f"{place:06}.parquet", compression="lz4")
        tables[name] = pl.scan_parquet(folder / name / "*.parquet")
    found = use_case.assemble(tables, snapshot.as_of)  # type: ignore[arg-type]
    if use_case.event_time is not None:
        found = found.sort(use_case.event_time, use_case.entity)
    found.lazy().sink_parquet(
        folder / "whole.parquet", compression="lz4", row_group_size=AT_ONCE, maintain_order=True
    )
    for name in tables:
        for file in (folder / name).iterdir():
            file.unlink()
    return folder / "whole.parquet"


def _parted(use_case: UseCase, whole: Path, folder: Path) -> tuple[Pieces, Pieces]:
    """Each row goes where it would go in memory."""
    every = pl.scan_parquet(whole)
    n = int(every.select(pl.len()).collect().item())
    newest = (
        None if use_case.event_time is None else every.select(pl.col(use_case.event_time).max()).collect().item()
    )
    files: tuple[list[Path], list[Path]] = ([], [])
    counts = [0, 0]
    for start in range(0, n, AT_ONCE):
        some = every.slice(start, AT_ONCE).collect()
        where = pl.Series(rows.held_out(use_case, some, newest))
        for side, part in enumerate((some.filter(~where), some.filter(where))):
            if len(part):
                files[side].append(folder / f"{('learnt', 'judged')[side]}-{start:012}.parquet")
                part.write_parquet(files[side][-1], compression="lz4")
                counts[side] += len(part)
    rows.enough(use_case, *counts)
    learnt, judged = (Pieces(use_case, tuple(each), folder) for each in files)
    return learnt, judged
