"""Other ways to serve the same model, as their guides show them; each in an environment of its own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TABLE = Path(".results") / "peers.json"
NAMES = {
    "touchline": "Touchline: proxy, place and log",
    "fastapi": "FastAPI, as in guides",
    "bentoml": "BentoML, its defaults",
    "litserve": "LitServe, its defaults",
    "mlflow": "`mlflow models serve`",
}
INTRODUCTION = """\
The same model behind other servers (`make bench-peers`), each beside the same bare endpoint in the same run (x):
one row a request; memory is that of all processes that a request goes through.
"""
HEAD = """\
| server | 1 client, p50 | x | 32 clients | x | CPU of a request | x | memory |
|---|---|---|---|---|---|---|---|
"""


def kept() -> list[Mapping[str, Any]]:
    """What the last run measured, if there was one."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else []


def table(told: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a server."""
    return f"{INTRODUCTION}\n{HEAD}" + "".join(map(_row, told))


def _row(each: Mapping[str, Any]) -> str:
    figures = [
        f"{each['p50_ms']:.2f} ms", f"{each['p50_ms_ratio']:.2f}", f"{each['per_second']:.0f} /s",
        f"{each['per_second_ratio']:.2f}", f"{each['cpu_us']:.0f} us", f"{each['cpu_us_ratio']:.2f}",
        f"{each['memory_mib']:.0f} MiB",
    ]  # fmt: skip
    return f"| {' | '.join([NAMES[each['peer']], *figures])} |\n"
