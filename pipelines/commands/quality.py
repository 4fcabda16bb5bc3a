"""Quality on what really happened: version by role by slice, each number with its interval."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.commands import declare, name_use_case, write_json
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.predictions.quality import Quality
    from pipelines.predictions.sums import Figure

WINDOWS = ("5m", "1h", "1d", "7d", "30d", "ever")
MINUTE, HOUR, DAY = 60, 3600, 86_400


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    one = declare(commands, "quality", quality, "how well each version does on what really happened, by slice")
    name_use_case(one)
    one.add_argument("--window", choices=WINDOWS, default="7d", help="of requests; default 7d")


def quality(asked: argparse.Namespace, settings: Settings) -> None:
    """Read the label clock's cells."""
    from pipelines import wiring
    from pipelines.adapters.postgres_book import connected
    from pipelines.predictions import quality as clock
    from pipelines.predictions.sums import Sums

    use_case = wiring.use_case(settings, asked.use_case or settings.use_case)
    with connected(settings.database) as connection:
        found = clock.quality(connection, use_case, datetime.now(UTC), asked.window)
    untracked = Sums(use_case).untracked
    if asked.json:
        told = [each.model_dump(mode="json") for each in found]
        return write_json({
            "use_case": use_case.name,
            "window": asked.window,
            "quality": told,
            "untracked": untracked,
        })
    _write(found)
    if untracked:
        sys.stdout.write(f"not tracked, because they are no sums over rows: {', '.join(untracked)}\n")
    return None


def _write(found: "Sequence[Quality]") -> None:
    names = sorted({name for each in found for name in each.metrics})
    head = [
        "version",
        "role",
        "slice",
        "recorded",
        "labelled",
        "pending",
        "expired",
        "late",
        "coverage",
        "lag p50/p90",
    ]
    rows = [[*head, "mean loss", *names], *(_row(each, names) for each in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    if not found:
        sys.stdout.write("no request in this window\n")


def _row(one: "Quality", names: Sequence[str]) -> list[str]:
    counts = (one.recorded, one.labelled, one.pending, one.expired, one.late)
    coverage = "-" if one.coverage is None else f"{one.coverage.value:.1%}"
    figures = [figure(one.mean_loss), *(figure(one.metrics.get(name)) for name in names)]
    known = [one.model_version, one.role, one.slice, *(f"{count:,}" for count in counts)]
    return [*known, coverage, f"{length(one.lag_p50_seconds)}/{length(one.lag_p90_seconds)}", *figures]


def figure(one: "Figure | None") -> str:
    """`1.234 [1.1, 1.4]`."""
    if one is None:
        return "-"
    known = one.lower is not None and one.upper is not None
    return f"{one.value:.4g} [{one.lower:.4g}, {one.upper:.4g}]" if known else f"{one.value:.4g}"


def length(seconds: float | None) -> str:
    """A time in its own unit."""
    if seconds is None:
        return "-"
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
