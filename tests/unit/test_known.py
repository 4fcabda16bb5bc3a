"""Keys that were published are found without reading their rows, and whatever happened to the index."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import key_index, lake
from pipelines.key_index import FAN, Held, KeyIndex
from pipelines.known import caught_up, known
from pipelines.spec import Field
from pipelines.steps import publish as publishing
from pipelines.steps.publish import publish
from tests.builders import NOW
from tests.unit.test_files import HEAD, at, events_world, ingest, put, rows
from tests.unit.test_quarantine import again, between, set_rules


@pytest.fixture
def world(tmp_path):
    return events_world(tmp_path)


def lines(*rows):
    return HEAD + "".join(f"{key},someone,,{amount}\n" for key, amount in rows)


def keys_of(world):
    return Path(at(world).keys)


def scanned(world, asked):
    """What is known of keys by reading every published row."""
    newest = pl.col("_hash", "_revision").sort_by("_revision").last()
    last = pl.struct("_batch", "_row").sort_by("_batch", "_row").last()
    found = world.tools.tables.scan(at(world).published).group_by("id").agg(newest, place=last).collect()
    told = asked.join(found, on="id", how="left", maintain_order="left").unnest("place")
    return told.select("_hash", "_revision", "_batch", "_row").rows()


def agrees(world, highest=60):
    asked = pl.DataFrame({"id": range(highest)}, schema={"id": pl.Int64})
    return known(world.tools.tables, at(world), asked).rows() == scanned(world, asked)


@pytest.fixture
def some(world):
    """Two batches: keys 1 to 4, then a duplicate, a correction and a new one."""
    put(world, "events-1.csv", lines((1, 1), (2, 2), (3, 3), (4, 4)))
    ingest(world)
    put(world, "events-2.csv", lines((1, 1), (2, 20), (5, 5)))
    ingest(world, NOW + timedelta(hours=1))
    return world


THIRD = lines((1, 1), (2, 20), (3, 30), (6, 6))
AFTER = {"arrived": 11, "published": 6, "revised": 2, "duplicate": 3}


def third(world):
    put(world, "events-3.csv", THIRD)
    return ingest(world, NOW + timedelta(hours=2))


def test_many_small_batches_are_found_as_by_reading_every_row(world):
    random = np.random.default_rng(0)
    for number in range(FAN + 3):
        put(world, f"events-{number}.csv", lines(*random.integers(0, (60, 3), (20, 2))))
        ingest(world, NOW + timedelta(hours=number))
        assert agrees(world)


def test_history_is_not_read_to_find_duplicates_and_revisions(some):
    caught_up(some.tools.tables, at(some))
    for file in Path(at(some).published).glob("*.parquet"):
        file.rename(file.with_suffix(".away"))
    assert third(some) == AFTER


def test_a_home_without_an_index_and_without_a_tally_goes_on_as_it_was(some):
    shutil.rmtree(keys_of(some))
    Path(at(some).tally).unlink()
    assert third(some) == AFTER
    assert agrees(some)


def test_rows_that_carry_another_release_s_hash_are_known_by_what_they_say(some):
    """Releases before hashed contents otherwise, and their index was of another layout."""
    from deltalake import DeltaTable

    DeltaTable(at(some).published).update({"_hash": f"'{'0' * 32}'"})
    _of_another_layout(keys_of(some))
    assert third(some) == AFTER


def test_a_column_that_is_declared_later_makes_no_old_row_a_revision(some):
    later = Field(name="colour", type="text", optional=True, example="red")
    (table,) = some.use_case.tables
    wider = table.model_copy(update={"columns": (*table.columns, later)})
    some.use_case = some.use_case.model_copy(update={"tables": (wider,)})
    assert third(some) == AFTER
    put(some, "events-4.csv", "id,who,at,amount,colour\n6,someone,,6,\n3,someone,,30,red\n")
    assert third(some) == AFTER | {"arrived": 13, "revised": 3, "duplicate": 4}


def _truncated(folder):
    run = max(folder.glob("*.run"), key=lambda file: file.stat().st_size)
    run.write_bytes(run.read_bytes()[:-1])


def _without_a_run(folder):
    next(folder.glob("*.run")).unlink()


def _half_a_manifest(folder):
    manifest = folder / key_index.MANIFEST
    manifest.write_text(manifest.read_text()[:40])


def _of_another_layout(folder):
    manifest = folder / key_index.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"layout": "another"}))


@pytest.mark.parametrize("tear", [_truncated, _without_a_run, _half_a_manifest, _of_another_layout])
def test_a_torn_index_is_made_anew(some, tear, caplog):
    caplog.set_level("INFO")
    tear(keys_of(some))
    assert third(some) == AFTER
    assert "made anew" in caplog.text
    assert agrees(some)


def _left_by_another_start_of_the_machine(folder):
    manifest = folder / key_index.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"boot": "another"}))


@pytest.mark.parametrize("lost", [False, True])
def test_after_a_loss_of_power_an_index_is_believed_when_its_bytes_are_those_that_were_written(some, lost, caplog):
    caplog.set_level("INFO")
    _left_by_another_start_of_the_machine(keys_of(some))
    if lost:
        run = next(keys_of(some).glob("*.run"))
        run.write_bytes(bytes(run.stat().st_size))
    assert third(some) == AFTER
    assert ("made anew" in caplog.text) == lost
    assert agrees(some)


def test_an_index_of_this_start_of_the_machine_is_not_compared(some, monkeypatch):
    monkeypatch.setattr(key_index, "boot", lambda: "this one")
    third(some)
    monkeypatch.setattr(key_index, "_compare", lambda *_: pytest.fail("the whole index was read"))
    assert agrees(some)


def test_where_the_system_names_no_start_every_index_is_compared(some, monkeypatch):
    compared = []
    monkeypatch.setattr(key_index, "boot", str)
    third(some)
    monkeypatch.setattr(key_index, "_compare", lambda files, _: compared.extend(files))
    assert agrees(some)
    assert compared


def test_an_index_that_is_behind_takes_in_what_it_missed(some, tmp_path, caplog):
    caplog.set_level("INFO")
    shutil.copytree(keys_of(some), tmp_path / "kept")
    third(some)
    shutil.rmtree(keys_of(some))
    shutil.copytree(tmp_path / "kept", keys_of(some))
    put(some, "events-4.csv", THIRD)
    caplog.clear()
    assert third(some) == AFTER
    assert "made anew" not in caplog.text
    assert agrees(some)


def test_an_index_that_is_behind_commits_that_the_log_forgot_is_made_anew(some, tmp_path, caplog):
    caplog.set_level("INFO")
    shutil.copytree(keys_of(some), tmp_path / "kept")
    third(some)
    shutil.rmtree(keys_of(some))
    shutil.copytree(tmp_path / "kept", keys_of(some))
    version = some.tools.tables.version(at(some).published)
    from deltalake import DeltaTable

    DeltaTable(at(some).published).create_checkpoint()
    Path(at(some).published, "_delta_log", f"{version:020}.json").unlink()
    assert agrees(some)
    assert "made anew" in caplog.text


def test_an_index_that_is_ahead_of_its_table_is_made_anew(some, tmp_path):
    shutil.copytree(at(some).root, tmp_path / "earlier")
    third(some)
    ahead = tmp_path / "ahead"
    shutil.copytree(keys_of(some), ahead)
    shutil.rmtree(at(some).root)
    shutil.copytree(tmp_path / "earlier", at(some).root)
    shutil.rmtree(keys_of(some))
    shutil.copytree(ahead, keys_of(some))
    assert agrees(some)
    assert third(some) == AFTER


def test_an_index_of_as_many_commits_but_other_rows_is_made_anew(some, caplog):
    caplog.set_level("INFO")
    manifest = keys_of(some) / key_index.MANIFEST
    held = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(held | {"rows": held["rows"] - 1}))
    assert agrees(some)
    assert "made anew" in caplog.text


def test_two_that_extend_one_index_at_once_leave_one_that_is_whole_or_made_anew(some):
    one, other = (caught_up(some.tools.tables, at(some)) for _ in range(2))
    part = np.ones((3, 6), np.uint64) * np.arange(1, 4, dtype=np.uint64)[:, None]
    one.extended([part], one.held.version, one.held.rows)
    other.extended([part], other.held.version, other.held.rows)
    assert len(other.find(part[:, :2])) == 3
    assert agrees(some)


def test_a_reader_keeps_what_it_opened_while_runs_are_merged(tmp_path):
    random = np.random.default_rng(0)
    index = KeyIndex(tmp_path, Held(layout="", version=0, rows=0))
    parts = [_entries(random, 50) for _ in range(FAN)]
    for number, part in enumerate(parts[:-1]):
        index = index.extended([part], number, 0)
    merged = index.extended(parts[-1:], FAN, 0)
    assert (len(index.runs), len(merged.runs), len(list(tmp_path.glob("*.run")))) == (FAN - 1, 1, 1)
    assert np.array_equal(index.find(parts[0][:, :2]), parts[0])
    assert np.array_equal(merged.find(parts[-1][:, :2]), parts[-1])


def _entries(random, n):
    entries = random.integers(1, 2**63, (n, 6), dtype=np.uint64)
    entries[:, key_index.REVISION] = 1
    return entries


@pytest.mark.parametrize("known_ones", [0, 1, 50, 3000])
@pytest.mark.parametrize("new_ones", [0, 1, 400, 9000])
def test_keys_are_found_however_many_are_looked_for(tmp_path, known_ones, new_ones):
    random = np.random.default_rng(1)
    entries = _entries(random, 3000)
    index = KeyIndex(tmp_path, Held(layout="", version=0, rows=0)).extended([entries], 0, 3000)
    there, new = entries[:known_ones], _entries(random, new_ones)
    order = random.permutation(known_ones + new_ones)
    found = index.find(np.concatenate([there, new])[order, :2])
    assert np.array_equal(found, np.concatenate([there, np.zeros_like(new)])[order])


def test_keys_whose_first_halves_are_equal_stay_apart(tmp_path):
    entries = _entries(np.random.default_rng(0), 40)
    entries[:, 0] = 7
    index = KeyIndex(tmp_path, Held(layout="", version=0, rows=0)).extended([entries], 0, 40)
    assert np.array_equal(index.find(entries[:, :2]), entries)
    unknown = entries[:, :2] + np.array([0, 1], np.uint64)
    assert not index.find(unknown)[:, key_index.REVISION].any()


def test_a_merge_in_pieces_gives_what_a_merge_at_once_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(key_index, "PIECE", 7)
    random = np.random.default_rng(0)
    parts = [_entries(random, 50) for _ in range(FAN)]
    for number, part in enumerate(parts):
        part[:5, :2] = parts[0][:5, :2]
        part[:, key_index.REVISION] = number + 1
    index = KeyIndex(tmp_path, Held(layout="", version=0, rows=0)).extended(parts, 0, 0)
    assert np.array_equal(np.asarray(index.runs[0]), key_index.newest(np.concatenate(parts)))


def test_places_keep_the_order_of_arrival():
    batch, row = np.array([1, 2, 2, 10**6]), np.array([10**11, 1, 2, 3])
    places = key_index.place(batch, row)
    assert list(places) == sorted(places)
    assert [each.tolist() for each in key_index.placed(places)] == [batch.tolist(), row.tolist()]


def test_minus_zero_is_the_key_zero(tmp_path):
    from tests.unit.test_files import EVENTS

    table = EVENTS.model_copy(update={"key": ("amount",)})
    world = events_world(tmp_path, table)
    put(world, "events-1.csv", lines((1, "0.0")))
    ingest(world)
    put(world, "events-2.csv", lines((2, "-0.0")))
    assert ingest(world) == {"arrived": 2, "published": 1, "revised": 1}


@pytest.mark.parametrize("survives", range(3))
def test_killed_at_any_commit_behind_an_index_the_next_run_finds_the_same(some, survives):
    append, left = some.tools.tables.append, [survives]

    class Killed(RuntimeError):
        pass

    class Dying(type(some.tools.tables)):
        def append(self, *given):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            append(*given)

    whole = some.tools
    some.tools = replace(whole, tables=Dying())
    with pytest.raises(Killed):
        third(some)
    some.tools = whole
    assert third(some) == AFTER
    assert agrees(some)


@pytest.mark.parametrize("step", ["added", "rows", "tidy"])
def test_killed_between_the_last_commit_and_the_index_the_next_run_finds_the_same(some, step):
    class Killed(RuntimeError):
        pass

    class Dying(type(some.tools.tables)):
        done = some.tools.tables.committed(at(some).published, lake.PUBLISH)

    def dying(self, uri, *given):
        if self.committed(at(some).published, lake.PUBLISH) > self.done:
            raise Killed
        return getattr(whole.tables, step)(uri, *given)

    whole = some.tools
    setattr(Dying, step, dying)
    some.tools = replace(whole, tables=Dying())
    with pytest.raises(Killed):
        third(some)
    some.tools = whole
    assert third(some) == AFTER
    assert agrees(some)


def test_rows_that_come_back_from_quarantine_are_known_afterwards(tmp_path):
    world = events_world(tmp_path, rules=[between(10)])
    put(world, "events-1.csv", lines((1, 1), (2, 99)))
    ingest(world)
    set_rules(world, between(100))
    assert again(world)["published"] == 1
    put(world, "events-2.csv", lines((2, 99), (1, 5)))
    assert ingest(world) == {"arrived": 4, "published": 2, "revised": 1, "duplicate": 1}
    assert agrees(world)


def test_a_table_of_many_commits_is_put_together_and_nothing_is_lost_or_taken_twice(world, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(publishing, "MOST_FILES", 3)
    for number in range(8):
        put(world, f"events-{number}.csv", lines((number, 1), (number - 1, 1)))
        told = ingest(world, NOW + timedelta(hours=number))
    assert told == {"arrived": 16, "published": 9, "duplicate": 7}
    assert "made anew" not in caplog.text.partition("batch=3")[2]
    assert agrees(world)
    assert len(rows(world)) == 9
    from deltalake import DeltaTable

    assert len(DeltaTable(at(world).published).file_uris()) <= 4
    assert world.tools.tables.committed(at(world).published, lake.PUBLISH) == 8


def test_a_snapshot_reads_its_version_also_after_the_files_were_put_together(world, monkeypatch):
    put(world, "events-0.csv", lines((0, 1)))
    ingest(world)
    version, later = world.tools.tables.version(at(world).published), NOW + timedelta(days=1)
    monkeypatch.setattr(publishing, "MOST_FILES", 1)
    put(world, "events-1.csv", lines((1, 1)))
    ingest(world, NOW + timedelta(hours=1))
    assert len(lake.in_force(world.tools.tables, at(world), later, version)) == 1
    assert len(lake.in_force(world.tools.tables, at(world), later)) == 2


def test_the_kept_count_is_what_counting_everything_gives(some):
    third(some)
    kept = lake.ledger(some.tools.tables, at(some))
    Path(at(some).tally).write_text("{")
    assert lake.ledger(some.tools.tables, at(some)) == kept


def test_a_count_that_is_behind_or_wrong_is_mended(some):
    behind = Path(at(some).tally).read_text()
    third(some)
    Path(at(some).tally).write_text(behind)
    assert lake.ledger(some.tools.tables, at(some)).model_dump(exclude={"table"}, exclude_defaults=True) == AFTER
    wrong = json.loads(behind)
    wrong["aside"]["rows"] += 1
    wrong["published"]["rows"] += 1
    Path(at(some).tally).write_text(json.dumps(wrong))
    assert lake.ledger(some.tools.tables, at(some)).model_dump(exclude={"table"}, exclude_defaults=True) == AFTER


def test_a_table_whose_key_was_changed_begins_anew_and_keeps_its_rows(some):
    [table] = some.use_case.tables
    some.use_case = some.use_case.model_copy(update={"tables": (table.model_copy(update={"key": ("who", "id")}),)})
    assert third(some) == AFTER
    assert publish(some.tools, some.use_case, publishing.CheckedArrivals(table="events", batches=())).balanced
