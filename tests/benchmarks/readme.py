"""The table of figures in the README: written by script, with machine, versions and date."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.benchmarks import Result, judge, peers

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- bench: written by `python -m tests.benchmarks --readme` -->", "<!-- /bench -->"
JUDGE = "<!-- judge: written by `python -m tests.benchmarks --readme` -->", "<!-- /judge -->"
PEERS = "<!-- peers: written by `python -m tests.benchmarks --readme` -->", "<!-- /peers -->"
PACKAGES = ("apache-airflow", "mlflow", "bentoml", "great-expectations", "xgboost-cpu", "deltalake", "polars")


def write(results: Sequence[Result], file: Path = README) -> None:
    """Put the tables between their marks; those of the judge and of the peers once they were measured."""
    text = _between(file.read_text(), BEGIN, END, table(results))
    if rows := judge.kept():
        text = _between(text, *JUDGE, judge.table(rows))
    if told := peers.kept():
        text = _between(text, *PEERS, peers.table(told))
    file.write_text(text)


def _between(text: str, begin: str, end: str, made: str) -> str:
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{README}: the marks {begin} and {end} are missing")
    return f"{before}{begin}\n{made}{end}{after}"


def table(results: Sequence[Result]) -> str:
    """Markdown: where it was measured, then a row a leg."""
    lines = [_where(), "", "| leg | ours | reference | ratio | aim | |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_row, results)]) + "\n"


def _row(each: Result) -> str:
    judged = {True: "reached", False: "**missed**", None: ""}[each.holds]
    reference = f"{each.against:.4g} {each.unit}: {each.reference}"
    return (
        f"| {each.leg} | {each.value:.4g} {each.unit} | {reference} | {each.ratio:.3g} | {each.aim} | {judged} |"
    )


def _where() -> str:
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, {platform.system()}"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {machine}, Python {platform.python_version()}; {versions}. "
        "Medians of turns (A B A B); ratios count, walls belong to this machine."
    )
