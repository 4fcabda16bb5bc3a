"""Files as people and programs leave them: every format, growing, replaced, cut into batches."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from pipelines import lake
from pipelines.adapters import plain_text
from pipelines.records import Arrivals, Batch
from pipelines.spec import Field, Files, Table
from pipelines.steps.publish import publish
from pipelines.steps.receive import receive
from pipelines.steps.validate import validate
from tests.builders import NOW, World

EVENTS = Table(
    name="events",
    source=Files(pattern="events*", zone="Europe/Berlin"),
    key=("id",),
    columns=(
        Field(name="id", type="integer", example=1),
        Field(name="who", type="text", example="Zoë"),
        Field(name="at", type="time", optional=True, example="2024-07-01T12:00:00"),
        Field(name="amount", type="number", optional=True, example=1.5),
    ),
)
HEAD = "id,who,at,amount\n"
LINES = ("1,Zoë,2024-07-01T12:00:00,1.5\n", '2,"Müller, Ann\n(two lines)",2024-07-01T10:00:00Z,2\n', "3,Ole,,\n")
TEXT = HEAD + "".join(LINES)
WANTED = [
    (1, "Zoë", datetime(2024, 7, 1, 10, tzinfo=UTC), 1.5),
    (2, "Müller, Ann\n(two lines)", datetime(2024, 7, 1, 10, tzinfo=UTC), 2.0),
    (3, "Ole", None, None),
]


@pytest.fixture
def world(tmp_path):
    return events_world(tmp_path)


def events_world(tmp_path, table=EVENTS, rules=()):
    """A world whose only table is `table`, with a suite of these rules."""
    world = World(tmp_path)
    world.use_case = world.use_case.model_copy(update={"tables": (table,)})
    suites = tmp_path / "suites"
    suites.mkdir()
    (suites / f"{table.name}.json").write_text(json.dumps({"name": table.name, "expectations": list(rules)}))
    world.tools = replace(world.tools, found=world.tools.found._replace(expectations=suites))
    return world


def put(world, name, content, *, settled=True):
    """A file that was left alone for an hour, or one that is just being written."""
    file = world.drop / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    if settled:
        hour = file.stat().st_mtime_ns - 3600 * 10**9
        os.utime(file, ns=(hour, hour))
    return file


def ingest(world, now=NOW, table="events"):
    ledger = world.ingest(now)[table]
    return ledger.model_dump(exclude={"table"}, exclude_defaults=True)


def at(world, table="events"):
    return lake.TableAt(world.tools.tables_at, world.use_case.table(table))


def rows(world, table="events"):
    found = lake.in_force(world.tools.tables, at(world, table), NOW + timedelta(days=1))
    return found.drop(lake.LINEAGE, strict=False).rows()


def lineage(world):
    found = world.tools.tables.scan(at(world).published).sort("_batch", "_row").collect()
    return found.select("id", "_batch", "_row", "_revision").rows()


def reasons(world):
    aside = world.tools.tables.scan(at(world).aside).filter(pl.col("kind") == lake.QUARANTINED)
    return [tuple(row) for row in aside.sort("batch", "row").select("row", "reasons").collect().rows()]


def as_jsonl():
    keys = ("id", "who", "at", "amount")
    cells = [
        (1, "Zoë", "2024-07-01T12:00:00", 1.5),
        (2, WANTED[1][1], "2024-07-01T10:00:00Z", 2),
        (3, "Ole", None, None),
    ]
    return "".join(json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) + "\n" for row in cells)


def as_parquet(tmp_path):
    file = tmp_path / "made.parquet"
    pl.DataFrame(WANTED, schema=["id", "who", "at", "amount"], orient="row").write_parquet(file)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("events.csv", lambda _: TEXT),
        ("events.csv.gz", lambda _: gzip.compress(TEXT.encode())),
        ("events.jsonl", lambda _: as_jsonl()),
        ("events.jsonl.gz", lambda _: gzip.compress(as_jsonl().encode())),
        ("events.parquet", as_parquet),
        ("events-bom.csv", lambda _: TEXT.encode("utf-8-sig")),
        ("events-16.csv", lambda _: TEXT.encode("utf-16")),
        ("events-1252.csv", lambda _: TEXT.encode("cp1252")),
        (
            "events-semicolon.csv",
            lambda _: (
                TEXT.replace("Müller, Ann", "Müller; Ann").replace(",", ";").replace("Müller; Ann", "Müller, Ann")
            ),
        ),
        ("events-tab.csv", lambda _: "\t".join(TEXT.split(",")).replace("Müller\t Ann", "Müller, Ann")),
        ("events-pipe.csv", lambda _: "|".join(TEXT.split(",")).replace("Müller| Ann", "Müller, Ann")),
        ("events-no-end.csv", lambda _: TEXT.rstrip("\n")),
    ],
)
def test_the_same_rows_come_out_of_every_format(world, tmp_path, name, made):
    put(world, name, made(tmp_path))
    assert ingest(world) == {"arrived": 3, "published": 3}
    assert rows(world) == WANTED


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_are_taken_as_found(world, end):
    put(world, "events.csv", TEXT.replace("\n(two lines)", "").replace("\n", end))
    assert ingest(world) == {"arrived": 3, "published": 3}
    assert [row[0] for row in rows(world)] == [1, 2, 3]


def test_columns_are_taken_by_name_and_may_come_and_go(world):
    put(world, "events-1.csv", "who,mood,id\nAnn,fine,1\n")
    put(world, "events-2.csv", "amount,id,who,,\n2.5,2,Bob,,\n")
    put(world, "events-3.csv", "id,amount\n3,2\n")
    assert ingest(world) == {"arrived": 3, "published": 2, "quarantined": 1}
    assert rows(world) == [(1, "Ann", None, None), (2, "Bob", None, 2.5)]
    assert reasons(world) == [(1, ["no column who"])]


def test_a_row_of_separators_is_set_aside_and_lines_that_are_no_rows_too(world):
    put(world, "events.csv", HEAD + LINES[0] + ",,,\n" + "4,short\n")
    put(world, "events.jsonl", '{"id": 7, "who": "Eve"}\n{"id": 8\n[9]\n')
    assert ingest(world) == {"arrived": 6, "published": 2, "quarantined": 4}
    told = [why for _, (why,) in reasons(world)]
    assert told[0] == "the row is empty: separators and nothing between them"
    assert told[1] == "the line has 2 cells, the header 4"
    assert told[2].startswith("the line is no JSON object: Expecting")
    assert told[3] == "the line is no JSON object: it is list"


def test_of_a_file_that_grows_only_the_new_rows_arrive(world):
    put(world, "events.csv", HEAD + LINES[0])
    assert ingest(world) == {"arrived": 1, "published": 1}
    put(world, "events.csv", HEAD + LINES[0] + LINES[1])
    assert ingest(world) == {"arrived": 2, "published": 2}
    put(world, "events.csv", TEXT)
    assert ingest(world) == {"arrived": 3, "published": 3}
    assert lineage(world) == [(1, 1, 1, 1), (2, 2, 2, 1), (3, 3, 3, 1)]
    assert rows(world) == WANTED


@pytest.mark.parametrize("pack", [lambda text: text.encode("utf-16"), lambda text: gzip.compress(text.encode())])
def test_growth_is_seen_through_encoding_and_compression(world, pack):
    put(world, "events.csv", pack(HEAD + LINES[0]))
    ingest(world)
    put(world, "events.csv", pack(TEXT))
    assert ingest(world) == {"arrived": 3, "published": 3}


def test_a_last_line_that_is_being_written_waits_until_it_ends(world):
    for step in (HEAD[:5], HEAD + LINES[0] + LINES[1][:9], HEAD + LINES[0] + LINES[1] + LINES[2][:3]):
        put(world, "events.csv", step, settled=False)
        ingest(world)
        ingest(world)
    assert [row[0] for row in rows(world)] == [1, 2]
    put(world, "events.csv", TEXT, settled=False)
    assert ingest(world) == {"arrived": 3, "published": 3}
    assert rows(world) == WANTED


def test_a_last_line_without_end_arrives_once_the_file_is_left_alone(world):
    put(world, "events.csv", TEXT.rstrip("\n"), settled=False)
    assert ingest(world) == {"arrived": 2, "published": 2}
    put(world, "events.csv", TEXT.rstrip("\n"))
    assert ingest(world) == {"arrived": 3, "published": 3}
    put(world, "events.csv", TEXT + "4,Eve,,\n")
    assert ingest(world) == {"arrived": 4, "published": 4}
    assert [row[2] for row in lineage(world)] == [1, 2, 3, 4]


def test_a_last_line_that_went_on_after_it_was_taken_is_a_changed_file(world):
    put(world, "events.csv", HEAD + LINES[0] + "2,Bo")
    ingest(world)
    put(world, "events.csv", HEAD + LINES[0] + "2,Bob,,\n")
    assert ingest(world) == {"arrived": 4, "published": 2, "quarantined": 1, "duplicate": 1}
    assert (2, "Bob", None, None) in rows(world)


def test_a_replaced_file_arrives_anew_equal_rows_are_duplicates_corrected_ones_revisions(world):
    put(world, "events.csv", TEXT)
    ingest(world)
    put(world, "events.csv", TEXT.replace("3,Ole,,", "3,Ole,,9") + "4,Eve,,\n")
    assert ingest(world) == {"arrived": 7, "published": 4, "revised": 1, "duplicate": 2}
    assert rows(world)[2] == (3, "Ole", None, 9.0)
    history = world.tools.tables.scan(at(world).published).filter(pl.col("id") == 3).sort("_revision").collect()
    assert history.select("amount", "_file", "_row", "_revision").rows() == [
        (None, "events.csv", 3, 1),
        (9.0, "events.csv", 3, 2),
    ]


@pytest.mark.parametrize("keeps_its_time", [True, False])
def test_a_file_put_back_to_what_it_was_takes_its_correction_back(world, keeps_its_time):
    file = world.drop / "events.csv"
    put(world, "events.csv", TEXT)
    first = file.stat().st_mtime_ns
    ingest(world)
    put(world, "events.csv", TEXT.replace("3,Ole,,", "3,Ole,,9"))
    ingest(world)
    put(world, "events.csv", TEXT)
    os.utime(file, ns=(first, first) if keeps_its_time else (first + 10**9, first + 10**9))
    assert ingest(world) == {"arrived": 9, "published": 3, "revised": 2, "duplicate": 4}
    assert rows(world) == WANTED
    assert ingest(world)["arrived"] == 9


def test_a_renamed_file_and_a_copy_are_no_arrival(world):
    put(world, "events-a.csv", TEXT.rstrip("\n"), settled=False)
    ingest(world)
    (world.drop / "events-a.csv").rename(world.drop / "events-b.csv")
    put(world, "events-b.csv", TEXT.rstrip("\n"))
    put(world, "events-c.csv", TEXT.rstrip("\n"))
    assert ingest(world) == {"arrived": 3, "published": 3}


def test_a_half_copied_archive_waits_and_a_broken_one_is_refused(world):
    half = gzip.compress(os.urandom(5000).hex().encode())[:-200]
    put(world, "events.csv.gz", half, settled=False)
    assert ingest(world) == {}
    put(world, "events.csv.gz", half)
    assert ingest(world)["quarantined"] >= 1
    assert "not a whole gzip file" in reasons(world)[0][1][0]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(plain_text, "ROWS", 7)
    monkeypatch.setattr("pipelines.adapters.parquet_file.ROWS", 7)


def many(n):
    """Rows with quoted line ends, torn lines and blank ones, so that every cut falls somewhere nasty."""
    kinds = (
        lambda i: f"{i},plain,2024-07-01T12:00:00,1\n",
        lambda i: f'{i},"two\nlines ""quoted"", here",,{i}.5\r\n',
        lambda i: f'{i},5" pipe,,\n',
        lambda i: f"{i},short\n",
        lambda i: ",,,\n",
    )
    return HEAD + "".join(kinds[i % 5](i) for i in range(n))


def test_a_big_file_is_cut_into_batches_and_no_cut_harms_a_row(world, small_batches):
    put(world, "events.csv", many(100).encode("utf-8-sig"))
    ledger = ingest(world)
    assert ledger == {"arrived": 100, "published": 60, "quarantined": 40}
    known = lake.batches(world.tools.tables, at(world))
    assert [batch.rows for batch in known] == [7] * 14 + [2]
    assert [row[2] for row in lineage(world)] == [i + 1 for i in range(100) if i % 5 < 3]
    assert dict.fromkeys(row for row, _ in reasons(world)).keys() == {i + 1 for i in range(100) if i % 5 > 2}


@pytest.mark.parametrize("group", [3, 7, 100])
def test_a_parquet_file_is_cut_at_rows_whatever_its_groups(world, small_batches, group):
    frame = pl.DataFrame({"id": range(40), "who": [f"n{i}" for i in range(40)]})
    frame.write_parquet(world.drop / "events.parquet", row_group_size=group)
    assert ingest(world) == {"arrived": 40, "published": 40}
    assert [(row[0], row[2]) for row in lineage(world)] == [(i, i + 1) for i in range(40)]


class Killed(RuntimeError):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("survives", range(8))
def test_killed_at_any_commit_of_several_batches_the_rows_are_conserved(world, small_batches, survives):
    """Commits: the intents of three batches at once, then quarantine and published of each."""
    put(world, "events.csv", many(20))
    kept, left = world.tools.tables, [survives]

    class Dying(type(kept)):
        def append(self, *given):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            super().append(*given)

        def take_over(self, uri, *given):
            new = self.version(uri) < 0  # by an append
            if left[0] == 0 and not new:
                raise Killed
            left[0] -= not new
            super().take_over(uri, *given)

    whole = world.tools
    world.tools = replace(whole, tables=Dying())
    if survives < 7:
        with pytest.raises(Killed):
            world.ingest()
    world.tools = whole
    assert ingest(world) == {"arrived": 20, "published": 12, "quarantined": 8}
    assert len(rows(world)) == 12
    assert [batch.number for batch in lake.batches(kept, at(world))] == [1, 2, 3]


def test_what_a_killed_run_left_half_copied_is_swept(world):
    world.tools.landing.mkdir()
    mine, other = (world.tools.landing / f"{name}-x1.partial" for name in (world.use_case.name, "others"))
    old, fresh = (world.tools.landing / f"plain-{name}.partial" for name in ("old", "fresh"))
    for left in (mine, other, old, fresh):
        left.write_text("half")
    os.utime(old, (0, 0))
    ingest(world)
    assert [left.exists() for left in (mine, other, old, fresh)] == [False, True, False, True]


def test_a_home_of_the_version_before_is_read_with_its_whole_files(world):
    """Its intents had no offsets and no stamps, and one batch a file."""
    (world.tools.landing).mkdir()
    landed = world.tools.landing / "digest-of-old"
    landed.write_text(TEXT)
    old = {"number": 1, "file": "events.csv", "stamp": "1-1", "digest": landed.name, "size": len(TEXT)}
    intent = {**old, "rows": 3, "unreadable": None, "received_at": NOW}
    columns = ("number", "file", "stamp", "digest", "size", "rows", "unreadable", "received_at")
    frame = pl.DataFrame([intent], schema_overrides={"unreadable": pl.String}).select(columns)
    world.tools.tables.append(at(world).batches, frame, lake.RECEIVE, 1)
    (known,) = lake.batches(world.tools.tables, at(world))
    assert known == Batch(**{**intent, "start": None, "stop": None, "first": 1})
    assert ingest(world) == {"arrived": 3, "published": 3}
    put(world, "events.csv", TEXT + "4,Eve,,\n")
    assert ingest(world) == {"arrived": 7, "published": 4, "duplicate": 3}


def test_steps_hand_over_small_records_whatever_the_file(world, small_batches):
    put(world, "events.csv", many(20))
    arrivals = receive(world.tools, world.use_case, "events", NOW)
    again = Arrivals.model_validate(arrivals.model_dump(mode="json"))
    checked = validate(world.tools, world.use_case, again, NOW)
    assert [len(batch.model_dump_json()) < 3000 for batch in checked.batches] == [True] * 3
    assert publish(world.tools, world.use_case, checked).arrived == 20


PEAK = """
import resource, sys
from pathlib import Path
from tests.unit.test_files import events_world, ingest
world = events_world(Path(sys.argv[1]))
(world.drop / "events.csv").symlink_to(sys.argv[2])
ledger = ingest(world)
print(ledger["arrived"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Peak of an ingest of 1x and 4x the rows, each in a process of its own, with batches of 5,000."""
    peaks = {}
    for times in (1, 4):
        source, at_ = tmp_path / f"{times}.csv", tmp_path / f"world{times}"
        at_.mkdir()
        with source.open("w") as file:
            file.write(HEAD)
            file.writelines(f"{i},{'word ' * 400}{i},2024-07-01T12:00:00,{i}.5\n" for i in range(15_000 * times))
        code = PEAK.replace(
            "world = ", "from pipelines.adapters import plain_text\nplain_text.ROWS = 5_000\nworld = "
        )
        told = subprocess.run(
            [sys.executable, "-c", code, at_, source], capture_output=True, text=True, check=True
        ).stdout.split()
        assert int(told[0]) == 15_000 * times
        peaks[times] = int(told[1])
    assert peaks[4] < 1.3 * peaks[1], peaks
