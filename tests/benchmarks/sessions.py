"""Simulated exercise sessions in any number, as frames and as CSV: what the legs about data are fed."""

from pathlib import Path

import numpy as np
import polars as pl

FIRST = 10_000_000


def sessions(n: int, first: int = 0, seed: int = 7, broken: float = 0.0) -> pl.DataFrame:
    """Rows of the table `exercise` with users numbered from `first`; that share has a height of 999 cm."""
    random = np.random.default_rng([seed, first])
    height = random.normal(172, 9, n).round(0)
    height[random.random(n) < broken] = 999.0
    return pl.DataFrame({
        "User_ID": FIRST + first + np.arange(n),
        "Gender": np.where(random.random(n) < 0.5, "male", "female"),
        "Age": random.integers(20, 80, n),
        "Height": height,
        "Weight": random.normal(75, 12, n).round(0).clip(30, 200),
        "Duration": random.integers(1, 31, n).astype(float),
        "Heart_Rate": random.normal(100, 9, n).round(0).clip(60, 150),
        "Body_Temp": random.normal(40, 0.6, n).round(1).clip(36, 42.5),
    })


def write(file: Path, n: int, first: int = 0, seed: int = 7) -> Path:
    """The same as a CSV file, a million rows at a time."""
    with file.open("wb") as out:
        for start in range(0, n, 10**6):
            some = sessions(min(10**6, n - start), first + start, seed)
            some.write_csv(out, include_header=start == 0)
    return file
