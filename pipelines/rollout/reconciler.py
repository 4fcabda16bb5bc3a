"""The reconciler: makes what serves follow the wish (law L7), round after round.

The wish is the registry's alias and what flows asked for. Each change is recorded first, then the proxy
follows, then the alias, then the processes; all of that is derived from the record, so a kill between any
two of them is mended by the next round.
"""

import logging
from collections.abc import Iterable
from datetime import datetime

from pipelines import catalog
from pipelines.adapters.postgres_book import PostgresBook
from pipelines.adapters.postgres_rollouts import PostgresRollouts, write
from pipelines.errors import BadRelease
from pipelines.rollout.decision import decide
from pipelines.rollout.processes import Processes
from pipelines.rollout.proxy import Backend, Line, Proxy
from pipelines.rollout.serving import Change, Place, Seen, Serving
from pipelines.rollout.stages import PER_PERCENT
from pipelines.serving.place import is_ready
from pipelines.settings import Settings
from pipelines.spec import UseCase
from pipelines.steps.gate import CHALLENGER, CHAMPION
from pipelines.tools import Event, Evidence, Registry

log = logging.getLogger(__name__)
UNWELL_ROUNDS = 30
"""Rounds that a place may stay unready before its process is started anew."""
KEPT_WELL = frozenset({"stable", "previous"})
"""Roles whose place is started anew; a canary that stays away ends its rollout."""
SERVED, ENTERED = "served", "its rollout began"


class Reconciler:
    """The only writer of places, weights and aliases of one home."""

    def __init__(
        self,
        settings: Settings,
        book: PostgresBook,
        rollouts: PostgresRollouts,
        registry: Registry,
        proxy: Proxy,
        processes: Processes,
    ) -> None:
        self.settings, self.book, self.rollouts, self.registry = settings, book, rollouts, registry
        self.proxy, self.processes = proxy, processes
        self.applied: tuple[Backend, ...] | None = None
        self.unwell: dict[tuple[str, int], int] = {}

    def round(self, now: datetime) -> None:
        """Look once at every use case and make at most one change in each."""
        found = catalog.find(self.settings.use_cases)
        states = {name: self.book.serving(name) for name in found}
        taken = {place.port for state in states.values() for place in state.places}
        for name in found:
            states[name] = self._one(catalog.current(name, self.settings.use_cases), states[name], taken, now)
            taken |= {place.port for place in states[name].places}
        self._stop_strays(states.values())

    def _one(self, use_case: UseCase, serving: Serving, taken: set[int], now: datetime) -> Serving:
        ready = self._ready(serving)
        self._realise(serving)
        if serving.alias_due or serving.challenger_due:
            serving = self._point(serving)
        versions = self.book.versions(use_case.name)
        seen = self._seen(use_case, serving, versions, ready, taken, now)
        change = decide(serving, seen)
        return serving if change is None else self._carry_out(serving, change, versions, now)

    def _seen(
        self,
        use_case: UseCase,
        serving: Serving,
        versions: list[Evidence],
        ready: frozenset[str],
        taken: set[int],
        now: datetime,
    ) -> Seen:
        asked = [each for each in versions if each.promotion_asked_at and not each.promotion_settled]
        aliases = self.registry.aliases(serving.use_case)
        return Seen(
            now=now,
            champion=aliases.get(CHAMPION),
            asked=asked[-1].version if asked else None,
            bentos={e.version: e.bento_tag for e in versions if e.may_serve and e.version and e.bento_tag},
            ready=ready,
            ports=tuple(port for port in self.settings.ports.places if port not in taken),
            replicas=self.settings.replicas,
            plan=use_case.rollout,
            horizon=use_case.horizon,
            challenger=aliases.get(CHALLENGER),
            unwell=self._unwell(serving),
            order=self.rollouts.waiting(serving.use_case),
            looked=self.rollouts.looked(serving.use_case) if serving.rollout else None,
            champion_gone=CHAMPION not in aliases and self._is_gone(serving),
        )

    def _is_gone(self, serving: Serving) -> bool:
        """Whether the version that serves was deleted from the registry."""
        if serving.version is None:
            return False
        try:
            self.registry.run_of(serving.use_case, serving.version)
        except BadRelease:
            return True
        return False

    def _unwell(self, serving: Serving) -> frozenset[str]:
        """Lines whose place has not been ready for long."""
        key = serving.use_case
        return frozenset(p.line for p in serving.places if self.unwell.get((key, p.port), 0) >= UNWELL_ROUNDS)

    def _carry_out(self, old: Serving, change: Change, versions: list[Evidence], now: datetime) -> Serving:
        """Record, then proxy and processes; aliases follow in the next round, which also mends a kill."""
        use_case = old.use_case
        log.info("use_case=%s generation=%d %s", use_case, change.serving.generation, change.why)
        event = Event(at=now, use_case=use_case, kind=change.kind, message=change.why)
        self.book.record(
            change.serving,
            (event,),
            settled(old, change, versions),
            lambda connection: write(connection, old, change, now),
        )
        self._realise(change.serving)
        return change.serving

    def _point(self, serving: Serving) -> Serving:
        """Set the aliases to what serves and what is under way, unless a person moved one since.

        Then, or when the version was deleted, the next round decides on that.
        """
        due = [(CHAMPION, serving.alias_due, serving.alias_from, serving.version)]
        due += [(CHALLENGER, serving.challenger_due, serving.challenger_from, serving.challenger)]
        aliases = self.registry.aliases(serving.use_case)
        for alias, is_due, moved_from, version in due:
            if is_due and aliases.get(alias) == moved_from and moved_from != version:
                self._set(serving.use_case, alias, version)
        done = serving.model_copy(update={"alias_due": False, "challenger_due": False})
        self.book.record(done)
        return done

    def _set(self, use_case: str, alias: str, version: str | None) -> None:
        try:
            self.registry.point(use_case, alias, version)
        except BadRelease as gone:
            log.warning("alias=%s %s", alias, gone)

    # --- making it so ----------------------------------------------------------------------------------

    def _realise(self, serving: Serving) -> None:
        """The proxy first, so that nobody is sent to a place that is about to stop."""
        self._apply(serving)
        for place in serving.places:
            self.processes.start(serving.use_case, place)

    def _apply(self, serving: Serving) -> None:
        backends = {each.use_case: each for each in self.applied or self._recorded()}
        backends[serving.use_case] = backend(self._use_case(serving), serving)
        wished = tuple(backends[name] for name in sorted(backends))
        if wished != self.applied:
            self.proxy.apply(wished)
            self.applied = wished

    def _recorded(self) -> Iterable[Backend]:
        return (backend(self._use_case(state), state) for state in self.book.all_serving())

    def _use_case(self, serving: Serving) -> UseCase:
        return catalog.current(serving.use_case, self.settings.use_cases)

    def _stop_strays(self, states: Iterable[Serving]) -> None:
        wanted = {(state.use_case, place.line, place.port) for state in states for place in state.places}
        self.processes.stop_others(wanted)

    # --- looking ---------------------------------------------------------------------------------------

    def _ready(self, serving: Serving) -> frozenset[str]:
        """Lines whose place is ready; one that stays unready for long is started anew."""
        ready = frozenset(place.line for place in serving.places if is_ready(place.port))
        for place in serving.places:
            key = (serving.use_case, place.port)
            self.unwell[key] = 0 if place.line in ready else self.unwell.get(key, 0) + 1
            if place.role in KEPT_WELL and self.unwell[key] >= UNWELL_ROUNDS:
                log.warning("use_case=%s place=%s is not ready: starting it anew", serving.use_case, place.line)
                self.processes.restart(serving.use_case, place)
                self.unwell[key] = 0
        return ready


def settled(old: Serving, change: Change, versions: list[Evidence]) -> dict[str, str]:
    """How open requests end with this change, by training key: a switch closes all, a refusal its own."""
    pending = [each for each in versions if each.promotion_asked_at and not each.promotion_settled]
    now, rollout = change.serving.version, change.serving.rollout
    if rollout is not None and old.rollout is None:
        return _entered(pending, rollout.version)
    if now != old.version and rollout is None and old.rollout is None:
        return {e.training_key: SERVED if e.version == now else f"overtaken by version {now}" for e in pending}
    return {e.training_key: change.why for e in pending if change.refused == e.version}


def _entered(pending: Iterable[Evidence], version: str) -> dict[str, str]:
    """With the beginning of a rollout its own request is closed, and those of older versions."""
    known = [each for each in pending if each.version is not None and int(each.version) <= int(version)]
    return {e.training_key: ENTERED if e.version == version else f"overtaken by version {version}" for e in known}


def backend(use_case: UseCase, serving: Serving) -> Backend:
    """What the proxy is told: places that are still to come have no line."""
    return Backend(
        use_case.name,
        use_case.serving.time_limit,
        use_case.serving.body_limit,
        use_case.entity,
        tuple(_line(place, serving) for place in serving.places if place.role != "coming"),
    )


def _line(place: Place, serving: Serving) -> Line:
    if place.role == "stable":
        return Line(place.line, place.port, 100, "stable")
    if place.role == "canary" and serving.rollout is not None:
        return Line(place.line, place.port, round(serving.rollout.percent * PER_PERCENT), "canary")
    return Line(place.line, place.port, 0, "previous")
