"""What `status` tells of each use case: champion, places, ledger, labels, events."""

from datetime import datetime

from pipelines import catalog, lake
from pipelines.adapters.delta import DeltaTables
from pipelines.adapters.postgres_book import PostgresBook, connected
from pipelines.predictions import quality as clock
from pipelines.records import Ledger
from pipelines.rollout.serving import Place
from pipelines.rollout.stages import Rollout
from pipelines.settings import Settings
from pipelines.spec import Frozen, UseCase
from pipelines.tools import Event


class UseCaseStatus(Frozen):
    """One use case, by what was committed and recorded."""

    use_case: str
    endpoint: str
    champion: str | None
    metrics: dict[str, float]
    gate: str | None
    bento: str | None
    places: tuple[Place, ...]
    rollout: Rollout | None
    """The one under way."""
    ledger: tuple[Ledger, ...]
    labels: tuple[dict[str, str | int | float | None], ...]
    """One a version, as `pipelines.predictions.quality.Version` names them, with the mean loss."""
    roles: tuple[clock.Quality, ...]
    """One a version and role, of all there ever was."""
    quality: tuple[clock.Quality, ...]
    """The same over the shortest window that holds a label."""
    orphan_labels: int
    keyed_labels: int
    waiting_labels: int
    """Of those by key: for no record (yet)."""
    events: tuple[Event, ...]


def overview(settings: Settings, now: datetime) -> tuple[UseCaseStatus, ...]:
    """Every use case of this home; ServiceAway when the database is."""
    names = sorted(catalog.find(settings.use_cases))
    return tuple(_one(settings, catalog.load(name, settings.use_cases), now) for name in names)


def ledgers(settings: Settings, use_case: UseCase) -> tuple[Ledger, ...]:
    """The ledger of each table."""
    root = str(settings.at.tables / use_case.name)
    return tuple(lake.ledger(DeltaTables(), lake.TableAt(root, table)) for table in use_case.tables)


def _one(settings: Settings, use_case: UseCase, now: datetime) -> UseCaseStatus:
    book = PostgresBook(settings.database)
    serving = book.serving(use_case.name)
    evidence = None if serving.version is None else book.by_version(use_case.name, serving.version)
    with connected(settings.database) as connection:
        counted = clock.counts(connection, use_case, now)
        roles = clock.quality(connection, use_case, now, clock.EVER, every_slice=False)
        newest = clock.newest(connection, use_case, now)
    return UseCaseStatus(
        use_case=use_case.name,
        endpoint=f"{settings.endpoint}/{use_case.name}",
        champion=serving.version,
        metrics={} if evidence is None else evidence.metrics,
        gate=None if evidence is None or evidence.gate is None else evidence.gate.reason,
        bento=None if evidence is None else evidence.bento_tag,
        places=serving.places,
        rollout=serving.rollout,
        ledger=ledgers(settings, use_case),
        labels=tuple({**each._asdict(), "mean_loss": each.mean_loss} for each in counted.versions),
        roles=roles,
        quality=newest,
        orphan_labels=counted.orphans,
        keyed_labels=counted.keyed,
        waiting_labels=counted.waiting,
        events=tuple(book.events(use_case.name, 5)),
    )
