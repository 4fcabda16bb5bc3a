"""What must hold after every fault: each law is a pure function of what was seen, and says what is broken."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipelines import lake
from pipelines.records import Ledger

Place = tuple[str, int]
"""File and number of a row in it."""
Cells = tuple[float | str | None, ...]
Told = str | None
"""What is broken; None: the law holds."""
SHOWN = 3


class Published(NamedTuple):
    """One revision of one row."""

    place: Place
    key: Cells
    revision: int
    cells: Cells


class Rows(NamedTuple):
    """One table: what arrived, and where it is now."""

    table: str
    ledger: Ledger
    sent: Mapping[Place, Cells]
    published: Sequence[Published]
    aside: Sequence[tuple[str, Place]]
    """Kind of the entry (quarantined, duplicate, released, discarded), and whose it is."""


class Releases(NamedTuple):
    """What trainings left."""

    finished: Sequence[str]
    """Training key of each finished run."""
    unfinished: Sequence[str]
    """Training key of each run that is still open."""
    candidates: Sequence[str]
    """Training key of each that is recorded."""
    versions: Sequence[str]
    """Run of each registered version."""
    tested: frozenset[str]
    """Versions that passed gate and check."""
    serving: Told = None


class Log(NamedTuple):
    """The clients' book beside the platform's."""

    answered: Sequence[str]
    accepted: Mapping[str, float]
    """What happened to a prediction, of each label that was taken in."""
    recorded: Mapping[str, int]
    """How many records in force each prediction has."""
    outcomes: Mapping[str, Sequence[float]]
    """What each prediction is known to have come to."""
    rows: Mapping[str, tuple[int, int]]
    """Of each version: records in force and outcomes, counted one by one."""
    counted: Mapping[str, tuple[int, int, int, int]]
    """Of each version as `status` tells it: recorded, labelled, pending, expired."""


class Wish(NamedTuple):
    """What should run and serve, beside what does."""

    away: Sequence[str]
    """Services that do not run, or do not answer."""
    champion: Told
    serving: Told
    asked: Told
    """A version that a flow asked for and that does not serve yet."""
    places: Sequence[tuple[str, str, bool]]
    """Version, role and readiness of each place."""
    replicas: int
    rollout: tuple[str, str, str] | None = None
    """Stage, challenger and previous champion of the one under way."""
    challenger: Told = None
    """Where that alias stands."""


class Requests(NamedTuple):
    """What clients did not get."""

    failures: Sequence[str]
    outage: bool
    """The fault takes away what every answer needs: then a typed refusal is no breach."""


def rows_are_conserved(seen: Rows) -> Told:
    """L1: each row that was sent is in one place, with the cells that were sent."""
    if not seen.ledger.balanced:
        return f"{seen.table}: {seen.ledger.model_dump()} does not add up"
    places = Counter(one.place for one in seen.published)
    for kind, place in seen.aside:
        places[place] += {lake.QUARANTINED: 1, lake.DUPLICATE: 1, lake.RELEASED: -1}.get(kind, 0)
    wrong = [place for place in {*seen.sent, *places} if places[place] != int(place in seen.sent)]
    if wrong:
        told = [f"{file}:{row} is there {places[file, row]} times" for file, row in sorted(wrong)[:SHOWN]]
        return f"{seen.table}: {len(wrong)} rows lost or doubled: {', '.join(told)}"
    changed = [one.place for one in seen.published if one.cells != seen.sent[one.place]]
    return f"{seen.table}: {len(changed)} rows hold what was not sent, as {changed[0]}" if changed else None


def rows_have_one_order(seen: Rows) -> Told:
    """L2: of a key no two revisions bear one number, and none is left out."""
    revisions = Counter((one.key, one.revision) for one in seen.published)
    if twice := [key for (key, _), n in revisions.items() if n > 1]:
        return f"{seen.table}: {len(twice)} keys have a revision twice, as {twice[0]}"
    newest, number = Counter[Cells](), Counter(one.key for one in seen.published)
    for one in seen.published:
        newest[one.key] = max(newest[one.key], one.revision)
    torn = [key for key in number if newest[key] != number[key]]
    return f"{seen.table}: {len(torn)} keys lack a revision, as {torn[0]}" if torn else None


def trainings_are_done_once(seen: Releases) -> Told:
    """L2: one finished run, one candidate and at most one version a training; nothing left open."""
    for what, names in (("run", seen.finished), ("candidate", seen.candidates), ("version", seen.versions)):
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            return f"{len(twice)} trainings have more than one {what}, as {twice[0][:12]}"
    if lost := set(seen.candidates) ^ set(seen.finished):
        return f"{len(lost)} trainings have a run and no candidate, or the reverse, as {min(lost)[:12]}"
    return f"{len(seen.unfinished)} runs were left open" if seen.unfinished else None


def only_the_tested_serves(seen: Releases) -> Told:
    """L3: what serves has passed gate and check."""
    if seen.serving is None or seen.serving in seen.tested:
        return None
    return f"version {seen.serving} serves and has not passed gate and check"


def answers_are_logged_once(seen: Log) -> Told:
    """L6: each answered prediction has one record in force, and no record has a twin."""
    lost = [name for name in seen.answered if seen.recorded.get(name, 0) < 1]
    if lost:
        return f"{len(lost)} of {len(seen.answered)} answered predictions are not in the log, as {lost[0]}"
    twice = [name for name, n in seen.recorded.items() if n > 1]
    return f"{len(twice)} predictions are in the log twice, as {twice[0]}" if twice else None


def labels_count_once(seen: Log) -> Told:
    """L6: each accepted label is its prediction's outcome; recorded = labelled + pending + expired, row by row."""
    for name, actual in seen.accepted.items():
        known = seen.outcomes.get(name, ())
        if list(known) != [actual]:
            return f"the label {actual} of {name} counts as {list(known)}"
    for version in {*seen.rows, *seen.counted}:
        recorded, labelled, pending, expired = seen.counted.get(version, (0, 0, 0, 0))
        if recorded != labelled + pending + expired:
            return f"version {version}: {recorded} is not {labelled} + {pending} + {expired}"
        if (recorded, labelled) != seen.rows.get(version, (0, 0)):
            told = seen.rows.get(version, (0, 0))
            return f"version {version}: {recorded} recorded and {labelled} labelled are told, {told} are there"
    return None


def the_wish_is_true(seen: Wish) -> Told:
    """L7: everything runs, and what serves is the champion, from as many places as declared."""
    if seen.away:
        return f"away: {', '.join(seen.away)}"
    if seen.asked is not None and seen.rollout is None:
        return f"version {seen.asked} was asked for, {seen.serving} serves"
    if seen.champion != seen.serving:
        return f"the champion is {seen.champion}, {seen.serving} serves"
    stage, challenger, previous = seen.rollout or ("none", None, None)
    if seen.challenger != (None if stage == "watch" else challenger):
        return f"the challenger is {seen.challenger} in stage {stage} of version {challenger}"
    beside = {
        "none": [],
        "shadow": [(challenger, "canary", True)],
        "canary": [(challenger, "canary", True)],
        "watch": [(previous, "previous", True)] * seen.replicas,
    }
    if stage not in beside:
        return f"the rollout of version {challenger} is on its way in {stage}"
    wished = [(seen.serving, "stable", True)] * seen.replicas + beside[stage]
    places = sorted(seen.places, key=str)
    return None if places == sorted(wished, key=str) else f"places are {places}"


TYPED = ("log_full", "no_place")
REFUSED = ("ConnectionRefused", "ConnectionReset", "RemoteDisconnected", "BrokenPipe")


def clients_do_not_pay(seen: Requests) -> Told:
    """L8: no request fails; where no answer is possible, it is refused in a way that a program understands."""
    bad = [told for told in seen.failures if not (seen.outage and is_refusal(told))]
    return f"{len(bad)} requests failed, as {bad[0][:160]}" if bad else None


def is_refusal(told: str) -> bool:
    """A connection that was not taken, or a typed 503."""
    typed = told.startswith("503 ") and any(f'"{code}"' in told for code in TYPED)
    return typed or told.startswith(REFUSED)
