"""A home knows where its rows come from: simulated and real ones never mix."""

from datetime import UTC, datetime
from typing import Literal

from pipelines.errors import BadSettings, OriginMismatch
from pipelines.settings import Settings
from pipelines.spec import Frozen


class Origin(Frozen):
    """Written once, when the first `up` chooses."""

    kind: Literal["simulated", "real"]
    since: datetime


def claim(settings: Settings) -> Origin:
    """The home's origin, written now when it has none; OriginMismatch when the settings ask for the other.

    BadSettings where no home is.
    """
    asked: Literal["simulated", "real"] = "simulated" if settings.data is None else "real"
    if not settings.at.version.exists():
        raise BadSettings(f"{settings.home}: this home was not set up yet: run `touchline up`")
    file = settings.at.root / "origin.json"
    if not file.exists():
        file.with_suffix(".partial").write_text(Origin(kind=asked, since=datetime.now(UTC)).model_dump_json())
        file.with_suffix(".partial").replace(file)
    origin = Origin.model_validate_json(file.read_bytes())
    if origin.kind != asked:
        raise OriginMismatch(
            f"{settings.home} holds {origin.kind} rows; {asked} ones would mix with them: "
            "choose another home by TOUCHLINE_HOME, or remove this one with `touchline down --purge`"
        )
    return origin
