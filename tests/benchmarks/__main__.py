"""Run the benchmarks: `python -m tests.benchmarks [leg …]`.

Prints a table, writes `.results/bench.json` and `.results/bench.png`. A leg that was not run now keeps the figures
of its last run, so one leg can be measured anew.
"""

import argparse
import importlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import Curve, Report, Result, chart, readme

RESULTS = Path(".results")
LEGS = (
    "serving", "shipping", "ingest", "history", "validation", "training", "out_of_core", "label_clock", "retrain",
    "fresh", "judge",
)  # fmt: skip
"""Modules of this package, in the order in which they are run."""
LINE = "{:<52} {:>10} {:>10} {:<5} {:>7} {:>8} {:>6} {:>10}\n"


def main() -> None:
    """Measure; whether an aim holds is said, not judged: machines are noisy."""
    words = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    words.add_argument("leg", nargs="*", help=f"what to measure, of {', '.join(LEGS)}; without: everything")
    words.add_argument(
        "--readme", action="store_true", help="measure nothing: write what is there into the README"
    )
    given = words.parse_args()
    if given.readme:
        return readme.write(kept()[0])
    chosen = given.leg or LEGS
    if unknown := set(chosen) - set(LEGS):
        words.error(f"no such leg: {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    for number, leg in enumerate(chosen, 1):
        _keep(leg, _measured(leg, f"[{number}/{len(chosen)}]"))
    results, curves = kept()
    chart.draw(curves, RESULTS / "bench.png")
    return _show(results)


def _measured(leg: str, place: str) -> Report:
    sys.stderr.write(f"{place} {leg} …\n")
    began = time.monotonic()
    report: Report = importlib.import_module(f"tests.benchmarks.{leg}").run()
    sys.stderr.write(f"{place} {leg}: {time.monotonic() - began:.0f} s\n")
    return report


def _keep(leg: str, report: Report) -> None:
    """Replace this leg's figures by those of now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for name, found in (("bench.json", report.results), ("curves.json", report.curves)):
        file = RESULTS / name
        old = json.loads(file.read_text()) if file.exists() else []
        kept_rows = [row for row in old if row.get("module") not in {leg, None}]
        new = [{**row._asdict(), "module": leg, "at": now} for row in found]
        rows = sorted([*kept_rows, *new], key=lambda row: LEGS.index(row["module"]))
        file.write_text(json.dumps(rows, indent=1) + "\n")


def kept() -> tuple[list[Result], list[Curve]]:
    """Every figure that is there, of this run or an earlier one."""
    return _read("bench.json", Result), _read("curves.json", Curve)


def _read(name: str, kind: Any) -> list[Any]:
    rows = json.loads((RESULTS / name).read_text())
    return [kind(**{field: row[field] for field in kind._fields}) for row in rows]


def _show(results: list[Result]) -> None:
    sys.stdout.write(LINE.format("leg", "ours", "reference", "unit", "ratio", "aim", "holds", "n"))
    for each in results:
        judged = {True: "yes", False: "NO", None: "-"}[each.holds]
        figures = (f"{each.value:.4g}", f"{each.against:.4g}", each.unit, f"{each.ratio:.3g}")
        sys.stdout.write(LINE.format(each.leg, *figures, each.aim or "-", judged, each.n))


if __name__ == "__main__":
    main()
