"""The Delta adapter: what the log alone tells, and files that are put together."""

import errno
import fcntl
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from polars.testing import assert_frame_equal

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


# --- rows that lie written already ----------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """Two rows with the columns of the table's last commit."""
    at = str(tmp_path / "written")
    TABLES.write(at, pl.DataFrame({"_batch": [4, 4], "x": [40, 41], "new": ["y", None]}))
    return at


ALIKE = ("dataChange", "partitionValues", "tags")


def log_of(uri, number):
    lines = Path(uri, "_delta_log", f"{number:020}.json").read_text().splitlines()
    return {name: told for line in lines for name, told in json.loads(line).items()}


def test_what_is_taken_over_is_what_an_append_would_have_written(uri, written, tmp_path):
    shutil.copytree(uri, appended := str(tmp_path / "appended"))
    TABLES.append(appended, TABLES.scan(written).collect(), "publish", 4)
    TABLES.take_over(uri, written, "publish", 4)
    shutil.rmtree(written)
    assert_frame_equal(TABLES.scan(uri).collect(), TABLES.scan(appended).collect(), check_row_order=False)
    one, other = log_of(uri, 3), log_of(appended, 3)
    assert one["txn"] == other["txn"] == {"appId": "publish", "version": 4}
    assert json.loads(one["add"]["stats"]) == json.loads(other["add"]["stats"])
    assert [one["add"][name] for name in ALIKE] == [other["add"][name] for name in ALIKE]
    assert (TABLES.version(uri), TABLES.committed(uri, "publish"), TABLES.rows(uri)) == (3, 4, 8)
    assert TABLES.added(uri, 2, 3).collect()["x"].to_list() == [40, 41]
    TABLES.tidy(uri, 1)
    assert sorted(TABLES.scan(uri).collect()["x"]) == [10, 11, 20, 21, 30, 31, 40, 41]


def test_the_same_number_is_taken_over_once(uri, written):
    TABLES.take_over(uri, written, "publish", 4)
    TABLES.take_over(uri, written, "publish", 4)
    TABLES.take_over(uri, written, "publish", 3)
    assert (TABLES.version(uri), TABLES.rows(uri)) == (3, 8)


def test_killed_before_its_commit_it_is_taken_over_the_next_time(uri, written, monkeypatch):
    def killed(*_given, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, "create_write_transaction", killed)
        with pytest.raises(KeyboardInterrupt):
            TABLES.take_over(uri, written, "publish", 4)
    assert (TABLES.version(uri), TABLES.committed(uri, "publish"), TABLES.rows(uri)) == (2, 3, 6)
    assert TABLES.scan(written).collect()["x"].to_list() == [40, 41]
    TABLES.take_over(uri, written, "publish", 4)
    assert sorted(TABLES.scan(uri).collect()["x"]) == [10, 11, 20, 21, 30, 31, 40, 41]


def test_of_two_at_once_delta_refuses_one(uri, written, monkeypatch):
    linked = delta._linked

    def late(*given):
        DeltaTables().append(uri, row(4), "publish", 4)
        return linked(*given)

    monkeypatch.setattr(delta, "_linked", late)
    with pytest.raises(CommitFailedError):
        TABLES.take_over(uri, written, "publish", 4)
    assert (TABLES.version(uri), TABLES.rows(uri)) == (3, 7)


@pytest.mark.parametrize(
    "rows",
    [
        {"_batch": [4], "x": [40], "new": ["y"], "newer": [1]},
        {"_batch": [4], "x": [40]},
        {"_batch": [], "x": [], "new": []},
    ],
    ids=["a column more", "a column less", "no rows"],
)
def test_rows_of_other_columns_are_written_anew_and_none_at_all_are_a_commit_too(uri, tmp_path, rows):
    kinds = {"_batch": pl.Int64, "x": pl.Int64, "new": pl.String, "newer": pl.Int64}
    frame = pl.DataFrame(rows, {name: kinds[name] for name in rows})
    TABLES.write(at := str(tmp_path / "written"), frame)
    TABLES.take_over(uri, at, "publish", 4)
    shutil.rmtree(at)
    assert (TABLES.version(uri), TABLES.committed(uri, "publish"), TABLES.rows(uri)) == (3, 4, 6 + len(frame))
    found = TABLES.scan(uri).filter(pl.col("x") == 40).collect()
    assert found.select(frame.columns).rows() == frame.rows()


def test_the_first_rows_of_a_table_are_written_anew(written, tmp_path):
    uri = str(tmp_path / "first")
    TABLES.take_over(uri, written, "publish", 1)
    shutil.rmtree(written)
    assert (TABLES.version(uri), TABLES.committed(uri, "publish"), TABLES.rows(uri)) == (0, 1, 2)


def test_where_a_file_has_one_name_only_rows_are_written_anew(uri, written, monkeypatch):
    def refused(*_given):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    TABLES.take_over(uri, written, "publish", 4)
    shutil.rmtree(written)
    assert sorted(TABLES.scan(uri).collect()["x"]) == [10, 11, 20, 21, 30, 31, 40, 41]


def test_a_full_disk_is_no_such_case(uri, written, monkeypatch):
    def full(*_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        TABLES.take_over(uri, written, "publish", 4)
    assert TABLES.version(uri) == 2


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
