"""What a bento answers, opened once in a process from what lies beside this file: the release and its stamp.

A place serves `app`; BentoML's service, in `service.py`, answers by the same `ANSWERS`.
"""

import gc
import importlib
import os
from pathlib import Path
from typing import Any

import pipelines
from pipelines.errors import CannotStart
from pipelines.serving import place, start
from pipelines.serving.behind import Behind
from pipelines.serving.hot import Hot

HERE = Path(__file__).parent


def _from_the_bento(code: str | None) -> None:
    """A place imports nothing from a working tree: only what was unpacked from its bento."""
    origin = Path(pipelines.__file__).resolve()
    if code and not origin.is_relative_to(Path(code).resolve()):
        raise CannotStart(f"pipelines comes from {origin}, not from the bento's own code in {code}")


def _service() -> Any:
    """BentoML's application: to load it takes as much as all else that a place needs to start."""
    application = importlib.import_module("service").application
    gc.freeze()
    return application


_from_the_bento(os.environ.get(place.CODE))
_spool = os.environ.get(place.SPOOL)
ANSWERS = start.answers(HERE, os.environ.get(place.NAME, "alone"), Path(_spool) if _spool else None)
app = Hot(Behind(_service), ANSWERS)
gc.freeze()  # what is loaded now stays for good: no collection looks through it again
gc.enable()  # a place begins without: looking through what only grows is an eighth of its start
