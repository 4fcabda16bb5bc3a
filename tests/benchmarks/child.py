"""One measured piece of work in a process of its own, so that its peak memory is its own too.

`python -m tests.benchmarks.child MODULE FUNCTION JSON` calls the function; it warms up, and gives the
seconds of what is measured (imports are not). Peaks are `VmHWM`: what `getrusage` tells begins with the parent's.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
CGROUP = Path("/sys/fs/cgroup")
MIB = 2**20


class Cost(NamedTuple):
    """What one piece of work took."""

    seconds: float
    cpu: float
    """Seconds of all its threads, with imports."""
    peak: float
    """Most resident memory, MiB."""


class Ended(NamedTuple):
    """A child that did not finish: its exit code (negative: a signal) and the end of what it said."""

    code: int
    told: str


class ChildFailed(RuntimeError):
    """A child that was to finish did not."""


def measured(work: Callable[..., float], **given: Any) -> Cost:
    """Run it in a child; an error of the child is one here."""
    found = tried(work, None, **given)
    if isinstance(found, Ended):
        raise ChildFailed(f"{work.__module__}.{work.__qualname__} ended with {found.code}: {found.told}")
    return found


def tried(work: Callable[..., float], most: int | None, **given: Any) -> Cost | Ended:
    """Run it in a child that may use `most` bytes of memory."""
    words = [sys.executable, "-m", "tests.benchmarks.child", work.__module__, work.__name__, json.dumps(given)]
    with _limit(most) as enter:
        child = subprocess.run([*enter, *words], capture_output=True, text=True, cwd=ROOT, check=False)
    if child.returncode:
        return Ended(child.returncode, child.stderr.strip()[-300:])
    return Cost(**json.loads(child.stdout.splitlines()[-1]))


def limited_by() -> str:
    """How a limit of memory is set here."""
    return "cgroup" if _group() is not None else "address space, twice the limit because mapped files count"


@contextmanager
def _limit(most: int | None) -> Generator[list[str]]:
    """Words before the command that put the child under its limit."""
    if most is None:
        yield []
        return
    group = _group()
    if group is None:
        yield ["prlimit", f"--as={2 * most}"]
        return
    (own := group / f"touchline-bench-{os.getpid()}").mkdir()
    try:
        file = "memory.max" if (own / "memory.max").exists() else "memory.limit_in_bytes"
        (own / file).write_text(str(most))
        yield ["sh", "-c", f'echo $$ > {own}/cgroup.procs && exec "$@"', "sh"]
    finally:
        own.rmdir()


def _group() -> Path | None:
    """The folder in which groups with a limit of memory may be made."""
    for place, file in ((CGROUP / "memory", "memory.limit_in_bytes"), (CGROUP, "memory.max")):
        probe = place / f"touchline-probe-{os.getpid()}"
        try:
            probe.mkdir()
        except OSError:
            continue
        works = (probe / file).exists() and os.access(probe / file, os.W_OK)
        probe.rmdir()
        if works:
            return place
    return None


def peak() -> float:
    """This process's most resident memory so far, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Print the cost as one line of JSON."""
    module, function, given = sys.argv[1:]
    work = getattr(importlib.import_module(module), function)
    seconds = work(**json.loads(given))
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu": time.process_time(), "peak": peak()}) + "\n")


if __name__ == "__main__":
    main()
