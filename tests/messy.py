"""Broken tables with suites as a careful person writes them: from knowledge of the field, not from the answers.

Where a clean version exists, a row is bad when it changed a value (not merely its writing).
"""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pipelines import lake
from pipelines.adapters import readers
from pipelines.spec import Field, Files, Table
from tests.builders import NOW, real_data
from tests.unit.test_files import at, events_world, put
from tests.unit.test_quarantine import rule

STATES = re.findall(
    r"..",
    "alakazarcacoctdedcflgahiidiliniakskylamemdmamimnmsmomtnenvnhnjnmnyncndohokorpariscsdtntxutvtvawawvwiwy",
)
OWNERS = (
    "government - federal",
    "government - state",
    "government - local",
    "government - hospital district or authority",
    "proprietary",
    "voluntary non-profit - church",
    "voluntary non-profit - private",
    "voluntary non-profit - other",
)
CONDITIONS = (
    "heart attack",
    "heart failure",
    "pneumonia",
    "surgical infection prevention",
    "children s asthma care",
)
HOSPITAL = (
    "ProviderNumber", "HospitalName", "Address1", "City", "State", "ZipCode", "CountyName", "PhoneNumber",
    "HospitalType", "HospitalOwner", "EmergencyService", "Condition", "MeasureCode", "MeasureName", "Score",
    "Sample", "Stateavg",
)  # fmt: skip
MASTER = (
    "HospitalName",
    "Address1",
    "City",
    "CountyName",
    "MeasureName",
    "ProviderNumber",
    "PhoneNumber",
    "ZipCode",
)
KNOWN = 3
"""Master data stand in many rows: what stands in fewer is none of it. Counted in the broken file itself."""


class Case(NamedTuple):
    """One broken table."""

    name: str
    file: Path
    table: Table
    rules: tuple[dict[str, Any], ...]
    bad: Callable[[], set[int]]
    """Rows, from 1, whose value the clean version changed."""


class Outcome(NamedTuple):
    """What the quarantine did."""

    ledger: dict[str, int]
    reasons: dict[str, int]
    precision: float
    """Of the quarantined rows so many are bad."""
    recall: float
    """Of the bad rows so many are quarantined."""
    bad: int


def text(name: str, *, optional: bool = False) -> Field:
    """A column of words."""
    return Field(name=name, type="text", optional=optional, example="")


def matches(column: str, regex: str, reason: str) -> dict[str, Any]:
    """A rule about how a cell is written."""
    made = rule("expect_column_values_to_match_regex", f"{column} form", column=column, regex=regex)
    return {**made, "meta": {"id": f"{column} form", "reason": reason}}


def among(column: str, words: Any, reason: str) -> dict[str, Any]:
    """A rule about which words there are."""
    made = rule("expect_column_values_to_be_in_set", f"{column} words", column=column, value_set=list(words))
    return {**made, "meta": {"id": f"{column} words", "reason": reason}}


def present(*columns: str) -> tuple[dict[str, Any], ...]:
    """Rules that cells are there."""
    made = "expect_column_values_to_not_be_null"
    return tuple(
        {**rule(made, name, column=name), "meta": {"id": f"{name} known", "reason": f"{name} is missing"}}
        for name in columns
    )


def hospital() -> Case:
    """Typing errors put into public hospital records."""
    file = real_data("messy", "hospital", "hospital.csv")
    rows = readers.rows_of(file)
    fixed = (
        matches("ProviderNumber", r"^\d{5,6}$", "ProviderNumber is not 5 or 6 digits"),
        matches("ZipCode", r"^\d{5}$", "ZipCode is not 5 digits"),
        matches("PhoneNumber", r"^\d{10}$", "PhoneNumber is not 10 digits"),
        matches(
            "MeasureCode", r"^(ami|hf|pn|scip|cac)-[a-z]*-?[a-z]*\d*[a-z]?$", "MeasureCode is no code of a measure"
        ),
        matches("Score", r"^\d{1,3}%$", "Score is no percentage"),
        matches("Sample", r"^\d+ patients$", "Sample is no number of patients"),
        among("State", STATES, "State is none of the United States"),
        among(
            "HospitalType",
            ("acute care hospitals", "critical access hospitals", "childrens"),
            "HospitalType is unknown",
        ),
        among("HospitalOwner", OWNERS, "HospitalOwner is none of the known kinds of owners"),
        among("EmergencyService", ("yes", "no"), "EmergencyService is neither yes nor no"),
        among("Condition", CONDITIONS, "Condition is none that is measured"),
        among("Stateavg", _averages(rows), "Stateavg is not a state and a measure"),
        *present("ProviderNumber", "City", "State", "Condition", "MeasureCode"),
    )
    master = tuple(among(name, _known(rows, name), f"{name} is not in the master data") for name in MASTER)
    columns = tuple(text(name) for name in HOSPITAL)
    table = Table(
        name="hospital", source=Files(pattern="*"), key=("ProviderNumber", "MeasureCode"), columns=columns
    )
    return Case("hospital", file, table, fixed + master, lambda: _changed_hospital(rows))


def _averages(rows: pl.DataFrame) -> list[str]:
    codes = _known(rows, "MeasureCode")
    return [f"{state}_{code}" for state in STATES for code in codes]


def _known(rows: pl.DataFrame, name: str) -> list[str]:
    counted = rows.get_column(name).drop_nulls().value_counts()
    return sorted(counted.filter(pl.col("count") >= KNOWN).get_column(name))


def _changed_hospital(rows: pl.DataFrame) -> set[int]:
    with real_data("messy", "hospital", "hospital_clean.csv").open() as opened:
        right = {(int(one["tid"]), one["attribute"]): one["correct_val"] for one in csv.DictReader(opened)}
    return {
        place + 1
        for place, row in enumerate(rows.iter_rows(named=True))
        if any((row[name] or "") != (right[place, name] or "") for name in HOSPITAL)
    }


def healthcare() -> Case:
    """Visits of patients with padding, words for numbers and several ways to say nothing."""
    file = real_data("messy", "healthcare", "healthcare_messy_data.csv")
    formats = ("%m/%d/%Y", "%B %d, %Y", "%Y.%m.%d", "%Y/%m/%d", "%m-%d-%Y")
    columns = (
        text("Patient Name"),
        Field(name="Age", type="integer", example=40),
        text("Gender"),
        text("Condition"),
        text("Medication"),
        Field(name="Visit Date", type="time", formats=formats, example="01/15/2020"),
        text("Blood Pressure"),
        Field(name="Cholesterol", type="number", example=200.0),
        text("Email"),
        text("Phone Number"),
    )
    rules = (
        rule("expect_column_values_to_be_between", "Age", column="Age", min_value=0, max_value=120),
        rule(
            "expect_column_values_to_be_between", "Cholesterol", column="Cholesterol", min_value=50, max_value=600
        ),
        among("Gender", ("Female", "Male", "Other"), "Gender is unknown"),
        among(
            "Condition",
            ("Asthma", "Heart Disease", "Diabetes", "Hypertension"),
            "Condition is none that is treated",
        ),
        matches("Blood Pressure", r"^\d{2,3}/\d{2,3}$", "Blood Pressure is no pair of numbers"),
        matches("Email", r"^[^@\s]+@[^@\s]+\.[a-z]+$", "Email is no address"),
        *present("Condition", "Blood Pressure", "Email"),
    )
    key = ("Patient Name", "Gender", "Medication", "Visit Date")
    table = Table(name="healthcare", source=Files(pattern="*"), key=key, columns=columns)
    return Case("healthcare", file, table, rules, lambda: _changed_healthcare(file))


def _changed_healthcare(file: Path) -> set[int]:
    """The author's dates and phones are left out: he lost four of five dates that can be read."""
    names = ("Age", "Gender", "Condition", "Medication", "Blood Pressure", "Cholesterol", "Email")
    dirty, clean = _rows(file), _rows(file.with_name("cleaned_healthcare_messy_data.csv"))
    return {
        place
        for place, (raw, right) in enumerate(zip(dirty, clean, strict=True), 1)
        if any(raw[name].strip() != right[name].strip() for name in names)
    }


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


IMDB = {
    "IMBD title ID": "IMDB_title_ID",
    "Original titlÊ": "Original_title",
    "Release year": "Release_year",
    "Duration": "Duration",
    "Country": "Country",
    "Content Rating": "Content_Rating",
    "Director": "Director",
    "Income": "Income",
    "Votes": "Votes",
    "Score": "Score",
}
RATINGS = ("G", "PG", "PG-13", "R", "NC-17", "Not Rated", "Unrated", "Approved")


def imdb() -> Case:
    """A hundred films, typed by hand."""
    file = real_data("messy", "imdb", "messy_IMDB_dataset.csv")
    columns = (
        text("IMBD title ID"),
        text("Original titlÊ"),
        Field(name="Release year", type="time", formats=("%Y-%m-%d",), example="1995-02-10"),
        Field(name="Duration", type="integer", example=142),
        text("Country"),
        text("Content Rating"),
        text("Director"),
        text("Income"),
        text("Votes"),
        Field(name="Score", type="number", example=9.3),
    )
    rules = (
        matches("IMBD title ID", r"^tt\d{7}$", "the id is no id of a film"),
        rule("expect_column_values_to_be_between", "Duration", column="Duration", min_value=1, max_value=600),
        rule("expect_column_values_to_be_between", "Score", column="Score", min_value=1, max_value=10),
        matches("Country", r"^[A-Z][A-Za-z ]+$", "Country is no name of a country"),
        among("Content Rating", RATINGS, "Content Rating is none that there is"),
        matches("Income", r"^\$ \d+$", "Income is no amount of dollars"),
        matches("Votes", r"^\d{1,3}(\.\d{3})*$", "Votes is no number"),
        *present("Release year", "Duration", "Country", "Content Rating", "Director", "Score"),
    )
    table = Table(name="imdb", source=Files(pattern="*"), key=("IMBD title ID",), columns=columns)
    return Case("imdb", file, table, rules, lambda: _changed_imdb(file))


def _changed_imdb(file: Path) -> set[int]:
    clean = {row["IMDB_title_ID"]: row for row in _rows(file.with_name("Cleaned_IMDB_Dataset.csv"))}
    found = set()
    for place, raw in enumerate(readers.rows_of(file).iter_rows(named=True), 1):
        right = clean.get(raw["IMBD title ID"] or "")
        if right is None or any(
            _said(raw[a] or "") != _said(right[b] or "") for a, b in IMDB.items() if a != "Original titlÊ"
        ):
            found.add(place)
    return found


def _said(cell: str) -> str:
    """What a cell says, however it is written: a date, an amount, a number, words."""
    cell = cell.strip()
    plain = cell.removeprefix("$ ")
    if re.fullmatch(r"\d{1,3}(\.\d{3})+", plain):
        plain = plain.replace(".", "")
    try:
        return str(float(plain))
    except ValueError:
        return cell


def judge(case: Case, folder: Path) -> Outcome:
    """Ingest the file with its suite; the quarantine beside what the clean version changed."""
    world = events_world(folder, case.table, case.rules)
    put(world, case.file.name, case.file.read_bytes())
    ledger = world.ingest(NOW)[case.table.name].model_dump(exclude={"table"}, exclude_defaults=True)
    waiting = lake.waiting(world.tools.tables, at(world, case.table.name))
    held, bad = set(waiting["row"].to_list()), case.bad()
    counted = waiting.select(pl.col("reasons").explode()).to_series().value_counts(sort=True)
    hit = len(held & bad)
    return Outcome(ledger, dict(counted.iter_rows()), hit / max(len(held), 1), hit / max(len(bad), 1), len(bad))


def cases() -> Iterator[Case]:
    """Those with a clean version."""
    yield from (hospital(), healthcare(), imdb())
