"""Run every benchmark: a table here, the numbers in `.results/bench.json`."""

import json
import sys
from pathlib import Path

from tests.benchmarks import Result, label_clock, serving

RESULTS = Path(".results/bench.json")
LINE = "{:<44} {:>10} {:>10} {:>7} {:>8} {:>6} {:>8}\n"


def main() -> None:
    """Measure; whether an aim holds is said, not judged: machines are noisy."""
    results = [*serving.run(), *label_clock.run()]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([result._asdict() for result in results], indent=1) + "\n")
    sys.stdout.write(LINE.format(*Result._fields))
    for leg, value, reference, ratio, aim, holds, n in results:
        row = (leg, f"{value:.4g}", f"{reference:.4g}", f"{ratio:.2f}", aim, "yes" if holds else "NO", n)
        sys.stdout.write(LINE.format(*row))


if __name__ == "__main__":
    main()
