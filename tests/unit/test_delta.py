"""The Delta adapter: what the log alone tells, and files that are put together."""

import fcntl
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from pipelines.adapters import delta
from pipelines.adapters.delta import DeltaTables

TABLES = DeltaTables()


@pytest.fixture
def uri(tmp_path):
    """Three commits of two rows; the last one has a column more."""
    at = str(tmp_path / "table")
    for number in (1, 2, 3):
        rows = pl.DataFrame({"_batch": [number, number], "x": [number * 10, number * 10 + 1]})
        TABLES.append(at, rows.with_columns(new=pl.lit("y")) if number == 3 else rows, "publish", number)
    return at


def test_rows_are_counted_by_the_log_alone(uri):
    for file in Path(uri).glob("*.parquet"):
        file.unlink()
    assert TABLES.rows(uri) == 6
    assert TABLES.rows(f"{uri}-gone") == 0


def test_rows_of_a_number_are_read_from_the_files_that_may_hold_it(uri):
    others = {Path(each) for each in DeltaTable(uri, version=1).file_uris()}
    for file in others:
        file.unlink()
    assert TABLES.where(uri, "_batch", 3).collect()["x"].to_list() == [30, 31]
    assert TABLES.where(uri, "_batch", 9).collect().is_empty()
    assert not TABLES.where(f"{uri}-gone", "_batch", 1).collect_schema()


def test_older_files_lack_the_columns_that_came_later(uri):
    assert TABLES.where(uri, "_batch", 1).collect()["new"].to_list() == [None, None]
    assert TABLES.added(uri, -1, 2).collect().sort("x")["new"].to_list() == [None] * 4 + ["y"] * 2


def test_rows_are_found_also_where_the_log_has_no_statistics_of_their_column(tmp_path):
    uri = str(tmp_path / "wide")
    wide = {f"c{place}": [1.0] for place in range(40)}
    for number in (1, 2):
        TABLES.append(uri, pl.DataFrame({**wide, "_batch": [number]}), "publish", number)
    assert TABLES.where(uri, "_batch", 2).collect()["_batch"].to_list() == [2]
    assert TABLES.rows(uri) == 2


def test_the_rows_behind_a_version_are_told_from_its_commits(uri):
    assert TABLES.added(uri, 0, 1).collect()["x"].to_list() == [20, 21]
    assert TABLES.added(uri, 2, 2).collect().is_empty()


def test_files_that_are_put_together_bring_no_new_rows_and_lose_no_transaction(uri):
    TABLES.tidy(uri, 3)
    assert TABLES.version(uri) == 2
    TABLES.tidy(uri, 2)
    assert (TABLES.version(uri), len(DeltaTable(uri).file_uris())) == (3, 1)
    assert TABLES.added(uri, 2, 3).collect().is_empty()
    assert TABLES.added(uri, 1, 3).collect().sort("x")["x"].to_list() == [30, 31]
    assert (TABLES.committed(uri, "publish"), TABLES.rows(uri)) == (3, 6)
    assert TABLES.scan(uri, 1).select(pl.len()).collect().item() == 4


def test_rows_that_were_taken_away_are_not_told_as_added(uri):
    DeltaTable(uri).delete("_batch = 1")
    assert TABLES.added(uri, 2, 3) is None


def test_a_log_that_was_cleaned_up_tells_nothing(uri):
    DeltaTable(uri).create_checkpoint()
    Path(uri, "_delta_log", f"{1:020}.json").unlink()
    assert TABLES.added(uri, 0, 2) is None


def test_delta_takes_two_compactions_at_once_which_is_why_ours_has_a_lock(uri):
    one, other = DeltaTable(uri), DeltaTable(uri)
    for each in (one, other):
        each.optimize.compact()
    assert TABLES.rows(uri) == 12


def test_many_that_put_files_together_at_once_leave_each_row_once(uri):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: TABLES.tidy(uri, 1), range(16)))
    assert sorted(TABLES.scan(uri).collect()["x"]) == [10, 11, 20, 21, 30, 31]
    assert len(DeltaTable(uri).file_uris()) == 1


def test_while_another_puts_files_together_nothing_waits(uri):
    with Path(f"{uri}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        TABLES.tidy(uri, 1)
    assert TABLES.version(uri) == 2


def test_an_append_during_a_compaction_is_kept(uri):
    stale = DeltaTable(uri)
    TABLES.append(uri, pl.DataFrame({"_batch": [4], "x": [40]}), "publish", 4)
    stale.optimize.compact()
    assert sorted(TABLES.scan(uri).collect()["x"]) == [10, 11, 20, 21, 30, 31, 40]
    assert TABLES.committed(uri, "publish") == 4


# --- one opening for many questions ---------------------------------------------------------------------


def row(number):
    return pl.DataFrame({"_batch": [number], "x": [number * 10]})


def told(tables, uri):
    """What each question says: version, commits of the two apps, rows by the log and by the files."""
    committed = tables.committed(uri, "publish"), tables.committed(uri, "other")
    where = tables.where(uri, "_batch", 4)
    found = where.collect().height if where.collect_schema() else 0
    return tables.version(uri), committed, tables.rows(uri), found


def test_the_log_is_read_once_for_each_commit_whatever_is_asked(uri, monkeypatch):
    opened = []
    monkeypatch.setattr(delta, "DeltaTable", lambda *args: opened.append(args) or DeltaTable(*args))
    tables = DeltaTables()
    for _ in range(5):
        told(tables, uri)
        tables.scan(uri).collect()
        tables.scan(uri, 2).collect()
    assert len(opened) == 1
    tables.append(uri, row(4), "publish", 4)
    tables.append(uri, row(4), "publish", 4)
    for _ in range(5):
        assert told(tables, uri) == (3, (4, 0), 7, 1)
    assert len(opened) == 2


def test_what_another_process_commits_is_seen_at_once(uri):
    tables = DeltaTables()
    for number in range(1, 8):
        assert tables.committed(uri, "other") == number - 1
        DeltaTables().append(uri, row(4), "other", number)
        assert told(tables, uri) == (2 + number, (3, number), 6 + number, number)
    tables.append(uri, row(4), "other", 7)
    assert tables.version(uri) == 9
    tables.append(uri, row(5), "other", 8)
    assert told(tables, uri) == told(DeltaTables(), uri) == (10, (3, 8), 14, 7)


def test_a_table_that_was_put_back_made_anew_or_removed_is_not_taken_for_the_one_before(uri, tmp_path):
    kept, tables = tmp_path / "kept", DeltaTables()
    shutil.copytree(uri, kept)
    TABLES.append(uri, row(4), "publish", 4)
    assert told(tables, uri) == (3, (4, 0), 7, 1)
    shutil.rmtree(uri)
    shutil.copytree(kept, uri)
    assert told(tables, uri) == (2, (3, 0), 6, 0)
    shutil.rmtree(uri)
    assert told(tables, uri) == (-1, (0, 0), 0, 0)
    for number in (1, 2, 3):
        TABLES.append(uri, row(4), "other", number)
    assert told(tables, uri) == (2, (0, 3), 3, 3)


def test_a_frame_shows_the_version_at_which_it_was_asked_for(uri):
    tables = DeltaTables()
    frame = tables.scan(uri)
    tables.append(uri, row(4), "publish", 4)
    later = tables.scan(uri)
    tables.append(uri, row(5), "publish", 5)
    assert [each.select(pl.len()).collect().item() for each in (frame, later, tables.scan(uri))] == [6, 7, 8]


def test_threads_that_share_it_see_each_others_commits_and_lose_none(uri):
    tables = DeltaTables()

    def work(name):
        for number in range(1, 9):
            tables.append(uri, row(4), name, number)
            assert tables.committed(uri, name) == number
            assert tables.where(uri, "_batch", 4).collect().height >= number

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, ["one", "two", "three", "four"]))
    assert (tables.rows(uri), tables.version(uri)) == (6 + 32, 2 + 32)
    assert {tables.committed(uri, name) for name in ("one", "two", "three", "four")} == {8}
