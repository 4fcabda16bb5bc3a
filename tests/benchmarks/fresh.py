"""From a clone to the first answered prediction: `make up`, with the package caches as they are, and with none."""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import Report, Result, compared
from tests.e2e.conftest import free_block

SOURCE = Path(__file__).parents[2]
AIM_SECONDS = 300.0
LIMIT_SECONDS = 1800
ANSWERED = b'"prediction_id"'


def run() -> Report:
    """Measure; some minutes. Cold means that every package comes from the index anew."""
    legs = {"clone to first prediction, package cache warm": False, "clone to first prediction, no cache": True}
    return Report([_leg(leg, cold=cold) for leg, cold in legs.items()])


def _leg(leg: str, *, cold: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="tl-fresh-") as folder:
        root = Path(folder)
        subprocess.run(["git", "clone", "-q", str(SOURCE), str(root / "clone")], check=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHLINE_")}
        environment.pop("VIRTUAL_ENV", None)
        environment |= {"TOUCHLINE_HOME": str(root / "home"), "TOUCHLINE_BASE_PORT": str(free_block())}
        if cold:
            environment |= {"UV_CACHE_DIR": str(root / "uv"), "PIP_CACHE_DIR": str(root / "pip")}
        try:
            seconds = _until_answered(root / "clone", environment)
        finally:
            touchline = root / "clone" / ".venv" / "bin" / "touchline"
            if touchline.exists():
                subprocess.run([touchline, "down", "--purge"], env=environment, check=False, capture_output=True)
        return compared(leg, "s", "five minutes", [(AIM_SECONDS, seconds)], "<= 1", 1)


def _until_answered(clone: Path, environment: dict[str, str]) -> float:
    """Seconds until `make up` prints the first answer; it is stopped as a person stops it."""
    began = time.monotonic()
    process = subprocess.Popen(
        ["make", "up"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in _lines(process):
            if ANSWERED in line:
                return time.monotonic() - began
        raise AssertionError(f"make up ended with {process.wait()} before it answered")
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to make and to what it runs
        process.communicate(timeout=LIMIT_SECONDS)


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """What it prints, line by line, until it ends; gives up after LIMIT_SECONDS."""
    assert process.stdout is not None
    deadline = time.monotonic() + LIMIT_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(1):
                line = process.stdout.readline()
                if not line:
                    return
                sys.stderr.write("  " + line.decode(errors="replace")[:150].rstrip() + "\n")
                yield line
    raise AssertionError(f"no answer after {LIMIT_SECONDS} s")
