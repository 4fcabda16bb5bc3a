"""Builds the real tools from the settings; the only place that picks adapters."""

import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import catalog
from pipelines import settings as settings_of
from pipelines.errors import BadSettings
from pipelines.origin import claim
from pipelines.settings import Settings
from pipelines.spec import Answers, Sql, Table, UseCase
from pipelines.tools import Locks, NoticeBook, Notifier, Source, Tools

if TYPE_CHECKING:
    from pipelines.adapters.mlflow_store import MlflowStore
    from pipelines.adapters.postgres_rollouts import PostgresRollouts
    from pipelines.rollout.proxy import Proxy
    from pipelines.rollout.reconciler import Reconciler

LOCK_FILE = Path(__file__).parents[1] / "requirements.txt"


def settings() -> Settings:
    """The settings, with logs to standard error: for processes of the platform's own."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return settings_of.load()


def use_case(settings: Settings, name: str) -> UseCase:
    """One use case by name."""
    return catalog.load(name, settings.use_cases)


def tools(settings: Settings, name: str) -> Tools:
    """The tools of one use case in this environment."""
    from pipelines.adapters.bento_builder import BentoBuilder
    from pipelines.adapters.delta import DeltaTables
    from pipelines.adapters.expectations import ExpectationsValidator
    from pipelines.adapters.own_code import OwnCodeScorer
    from pipelines.adapters.postgres_book import PostgresBook, PostgresClaims
    from pipelines.adapters.postgres_labels import PostgresLabelBook
    from pipelines.adapters.readers import Readers
    from pipelines.adapters.xgboost_parts import XGBoostModeller

    home, store_of_home = settings.at, store(settings)
    return Tools(
        found=catalog.locate(name, settings.use_cases),
        lock=LOCK_FILE,
        tables_at=str(home.tables / name),
        landing=home.landing,
        snapshots=home.snapshots,
        docs=home.docs / name,
        source=source(settings, name),
        reader=Readers(),
        tables=DeltaTables(),
        validator=ExpectationsValidator(),
        modeller=XGBoostModeller(settings.training_threads),
        tracker=store_of_home,
        registry=store_of_home,
        evidence=PostgresBook(settings.database),
        claims=PostgresClaims(settings.database),
        labels=PostgresLabelBook(settings.database),
        scorer=OwnCodeScorer(),
        builder=BentoBuilder(home.bentoml, home.places, LOCK_FILE),
        locks=locks(settings),
        training_memory=settings.training_memory_mb,
    )


def store(settings: Settings) -> "MlflowStore":
    """Runs, versions and aliases of this home."""
    from pipelines.adapters.mlflow_store import MlflowStore

    return MlflowStore(settings.mlflow, settings.at.models)


def proxy(settings: Settings) -> "Proxy":
    """The proxy of this home."""
    from pipelines.adapters.haproxy import HAProxy

    return HAProxy(settings.at.proxy, settings.ports.proxy)


def rollouts(settings: Settings) -> "PostgresRollouts":
    """Orders, history and verdicts of this home's rollouts."""
    from pipelines.adapters.postgres_rollouts import PostgresRollouts

    return PostgresRollouts(settings.database)


def notifier(settings: Settings) -> Notifier:
    """The log, and every address that the home was given."""
    from pipelines.adapters import notifiers

    return notifiers.EveryNotifier([
        notifiers.LogNotifier(),
        *(notifiers.of(one.get_secret_value()) for one in settings.notify),
    ])


def notices(settings: Settings) -> NoticeBook:
    """What people were told in this home."""
    from pipelines.adapters.postgres_book import PostgresNotices

    return PostgresNotices(settings.database)


def locks(settings: Settings) -> Locks:
    """Locks that all processes of this home share."""
    from pipelines.adapters.postgres_book import PostgresLocks

    return PostgresLocks(settings.database, settings.lock_wait_seconds)


def source(settings: Settings, name: str) -> Source:
    """The source of each table of a use case."""
    from pipelines.adapters.sources import PerTable

    declared = use_case(settings, name)
    since = claim(settings).since
    return PerTable({table.name: _source_of(settings, declared, table, since) for table in declared.tables})


def _source_of(settings: Settings, use_case: UseCase, table: Table, since: datetime) -> Source:
    """What the table declares; files of no place are those of TOUCHLINE_DATA, else simulated ones."""
    from pipelines.adapters.sources import BucketSource, FolderSource, SimulatedSource

    declared = table.source
    if isinstance(declared, Sql):
        return sql_source(declared)
    if isinstance(declared, Answers):
        from pipelines.adapters.sql import AnswersSource

        return AnswersSource(settings.database, use_case)
    if declared.at is not None and declared.at.startswith("s3://"):
        return BucketSource(declared.at, settings_of.bucket_endpoint())
    folder = settings.data if declared.at is None else Path(declared.at).expanduser()
    if folder is not None:
        return FolderSource(folder)
    if use_case.simulate is None:
        raise BadSettings(f"TOUCHLINE_DATA: {use_case.name} has no simulation, so it needs a folder of real files")
    return SimulatedSource(use_case.simulate, settings.simulation_seed, since)


def sql_source(declared: Sql) -> Source:
    """The database of a query; its address may be a variable's, because it may hold a password."""
    from pipelines.adapters.sql import SqlSource

    named = declared.url.removeprefix("env:")
    return SqlSource(declared.url if named == declared.url else settings_of.variable(named))


def reconciler(settings: Settings) -> "Reconciler":
    """The reconciler of this home."""
    from pipelines.adapters.postgres_book import PostgresBook
    from pipelines.rollout.processes import SupervisedPlaces
    from pipelines.rollout.reconciler import Reconciler

    book = PostgresBook(settings.database)
    places = SupervisedPlaces(settings)
    return Reconciler(settings, book, rollouts(settings), store(settings), proxy(settings), places)
