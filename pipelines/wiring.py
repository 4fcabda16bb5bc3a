"""Builds the real tools from the settings; the only place that picks adapters."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import catalog
from pipelines import settings as settings_of
from pipelines.errors import BadSettings
from pipelines.origin import claim
from pipelines.settings import Settings
from pipelines.spec import UseCase
from pipelines.tools import Locks, NoticeBook, Notifier, Source, Tools

if TYPE_CHECKING:
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
    from pipelines.adapters.mlflow_store import MlflowStore
    from pipelines.adapters.own_code import OwnCodeScorer
    from pipelines.adapters.postgres_book import PostgresBook, PostgresClaims
    from pipelines.adapters.postgres_labels import PostgresLabelBook
    from pipelines.adapters.readers import Readers
    from pipelines.adapters.xgboost_parts import XGBoostModeller

    home = settings.at
    store = MlflowStore(settings.mlflow, home.models)
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
        tracker=store,
        registry=store,
        evidence=PostgresBook(settings.database),
        claims=PostgresClaims(settings.database),
        labels=PostgresLabelBook(settings.database),
        scorer=OwnCodeScorer(),
        builder=BentoBuilder(home.bentoml, home.places, LOCK_FILE),
        locks=locks(settings),
    )


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
    """Real files where a folder is set, else the use case's own simulation since the home's first day."""
    from pipelines.adapters.sources import FolderSource, SimulatedSource

    origin = claim(settings)
    if settings.data is not None:
        return FolderSource(settings.data)
    simulate = use_case(settings, name).simulate
    if simulate is None:
        raise BadSettings(f"TOUCHLINE_DATA: {name} has no simulation, so it needs a folder of real files")
    return SimulatedSource(simulate, settings.simulation_seed, origin.since)


def reconciler(settings: Settings) -> "Reconciler":
    """The reconciler of this home."""
    from pipelines.adapters.haproxy import HAProxy
    from pipelines.adapters.mlflow_store import MlflowStore
    from pipelines.adapters.postgres_book import PostgresBook
    from pipelines.rollout.processes import SupervisedPlaces
    from pipelines.rollout.reconciler import Reconciler

    home = settings.at
    return Reconciler(
        settings,
        PostgresBook(settings.database),
        MlflowStore(settings.mlflow, home.models),
        HAProxy(home.proxy, settings.ports.proxy),
        SupervisedPlaces(settings),
    )
