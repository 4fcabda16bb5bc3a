"""`python -m tests [options of pytest]`: two runs at once, those of the running stack and all others.

The stack mostly waits, so both together take little longer than one. What is under way is told line by line, each
run's report in one piece at its end. (pytest-xdist leaves a running stack behind when it is interrupted.)
"""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).parents[1]
RUNS = (["tests/e2e", "--verbose"], ["tests", "--ignore=tests/e2e"])
REPORT = re.compile(r"=+ (FAILURES|ERRORS|warnings summary|slowest|short test summary|\d+ (passed|failed|error))")
"""How the part begins that is told in one piece."""


def main(options: list[str]) -> int:
    """Run both; 0 only when both ended well."""
    telling = Lock()
    with ThreadPoolExecutor(len(RUNS)) as pool:
        ended = list(pool.map(lambda chosen: _run([*chosen, *options], telling), RUNS))
    return next((code for code in ended if code), 0)


def _run(words: list[str], telling: Lock) -> int:
    report: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, bufsize=1,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if report or REPORT.match(line):
                report.append(line)
            else:
                with telling:
                    sys.stdout.write(line)
                    sys.stdout.flush()
    with telling:
        sys.stdout.writelines(report)
        sys.stdout.flush()
    return process.returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
