"""Small worlds for tests: a use case with real tables, real validation, real training, and shipped fakes."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import poisson

from pipelines import catalog, fakes, flows
from pipelines.adapters.delta import DeltaTables
from pipelines.adapters.expectations import ExpectationsValidator
from pipelines.adapters.readers import Readers
from pipelines.adapters.sources import FolderSource
from pipelines.adapters.xgboost_parts import XGBoostModeller
from pipelines.records import Ledger
from pipelines.runner import here
from pipelines.spec import Files, UseCase
from pipelines.tools import Source, Tools

LOCK = Path(__file__).parents[1] / "requirements.txt"
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


class World:
    """One use case in one folder; `drop` is where its files arrive."""

    def __init__(self, at: Path, name: str = "calories", folders: tuple[Path, ...] = ()) -> None:
        self.use_case = catalog.load(name, folders)
        self.drop = at / "drop"
        self.drop.mkdir()
        modeller = XGBoostModeller(threads=2)
        (at / "runs").mkdir()
        self.tools = Tools(
            found=catalog.locate(name, folders),
            lock=LOCK,
            tables_at=str(at / "tables"),
            landing=at / "landing",
            snapshots=at / "snapshots",
            docs=at / "docs",
            source=FolderSource(self.drop),
            reader=Readers(),
            tables=DeltaTables(),
            validator=ExpectationsValidator(),
            modeller=modeller,
            tracker=fakes.MemoryTracker(at / "runs"),
            registry=fakes.MemoryRegistry(),
            evidence=fakes.MemoryEvidence(),
            claims=fakes.MemoryClaims(),
            labels=fakes.MemoryLabelBook(),
            scorer=fakes.HereScorer(self.use_case, modeller),
            builder=fakes.HereBuilder(),
            locks=fakes.MemoryLocks(),
        )

    def with_source(self, source: Source) -> "World":
        """The same world with rows from elsewhere."""
        self.tools = replace(self.tools, source=source)
        return self

    @property
    def do(self) -> flows.Runner:
        """Runs steps here."""
        return here(self.tools, self.use_case)

    def ingest(self, now: datetime = NOW) -> dict[str, Ledger]:
        """Ingest every table."""
        return {table.name: flows.ingestion(self.do, table.name, now) for table in self.use_case.tables}


def replace(tools: Tools, **changed: object) -> Tools:
    """Tools with some of them exchanged."""
    return Tools(**{**vars(tools), **changed})  # type: ignore[arg-type]


def write_drop(use_case: UseCase, folder: Path, drop: int = 0, seed: int = 7) -> None:
    """Put one simulated drop into a folder, as the files that a person would put there."""
    assert use_case.simulate is not None
    for name, rows in use_case.simulate(seed, drop).items():
        rows.write_csv(folder / _pattern(use_case, name).replace("*", f"-{drop}"))


START = datetime(2020, 1, 1, tzinfo=UTC)


def football(n: int = 2400, seed: int = 1) -> pl.DataFrame:
    """Twenty teams of fixed strength, each plays once a day; a bookmaker who knows them, with a margin of 5 %."""
    random = np.random.default_rng(seed)
    strength = random.normal(0, 0.6, 20)
    home, away = np.concatenate([random.permutation(20).reshape(10, 2) for _ in range(n // 10)]).T
    lead = strength[home] - strength[away] + 0.25
    means = np.exp(0.2 + lead / 2), np.exp(0.2 - lead / 2)
    goals = random.poisson(means[0]), random.poisson(means[1])
    said = _results(*means) * random.lognormal(0, 0.02, (n, 3))
    odds = said.sum(axis=1, keepdims=True) / said / 1.05
    return pl.DataFrame({
        "Date": [START + timedelta(days=place // 10) for place in range(n)],
        "HomeTeam": [f"Team {team}" for team in home],
        "AwayTeam": [f"Team {team}" for team in away],
        "FTHG": goals[0],
        "FTAG": goals[1],
        "HST": goals[0] + random.poisson(3, n),
        "AST": goals[1] + random.poisson(3, n),
        **{f"B365{side}": odds[:, place].clip(1.01) for place, side in enumerate("HDA")},
    }).with_columns(pl.col("Date").cast(pl.Datetime("us", "UTC")))


def _results(home: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Probabilities of home win, draw and away win of two Poisson numbers of goals, (n, 3)."""
    goals = np.arange(25)
    each = [poisson.pmf(goals, mean[:, None]) for mean in (home, away)]
    joint = each[0][:, :, None] * each[1][:, None, :]
    lead = goals[:, None] - goals
    return np.column_stack([joint[:, where].sum(axis=1) for where in (lead > 0, lead == 0, lead < 0)])


def _pattern(use_case: UseCase, table: str) -> str:
    source = use_case.table(table).source
    assert isinstance(source, Files)
    return source.pattern


def real_data(*parts: str) -> Path:
    """A real file or folder; skips without TOUCHLINE_REAL_DATA, fails where it is set and the file is missing."""
    root = os.environ.get("TOUCHLINE_REAL_DATA")
    if not root:
        pytest.skip("TOUCHLINE_REAL_DATA is not set: no real files on this machine")
    found = Path(root, *parts)
    assert found.exists(), f"TOUCHLINE_REAL_DATA is set, but {found} is missing"
    return found
