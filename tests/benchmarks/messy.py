"""`python -m tests.benchmarks.messy`: precision and recall of the quarantine on broken tables, by row."""

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import messy

LINE = "{:<12} {:>6} {:>6} {:>12} {:>10} {:>7}\n"


def main() -> None:
    """Print one line a table, then its most frequent reasons."""
    logging.disable(logging.WARNING)
    sys.stdout.write(LINE.format("table", "rows", "bad", "quarantined", "precision", "recall"))
    for case in messy.cases():
        with TemporaryDirectory() as folder:
            found = messy.judge(case, Path(folder))
        rows, held = found.ledger["arrived"], found.ledger["quarantined"]
        sys.stdout.write(
            LINE.format(case.name, rows, found.bad, held, f"{found.precision:.3f}", f"{found.recall:.3f}")
        )
        for reason, count in list(found.reasons.items())[:5]:
            sys.stdout.write(f"    {count:>5} {reason}\n")


if __name__ == "__main__":
    main()
