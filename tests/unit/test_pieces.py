"""Training from disk gives what training in memory gives: the same rows, the same model, the same numbers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from pipelines import lake, rows
from pipelines.adapters.search import Learner
from pipelines.records import Wish
from pipelines.spec import Field, HeldOutByTime, Part
from pipelines.steps import pieces
from pipelines.steps.snapshot import take_snapshot
from pipelines.steps.train import judged_rows, train
from tests.benchmarks.filled import at_of, wide
from tests.builders import NOW, World, football, write_drop


@pytest.fixture
def small(monkeypatch):
    """Pieces of few rows; every training is too big for them."""
    monkeypatch.setattr(pieces, "AT_ONCE", 700)
    monkeypatch.setattr(pieces, "COPIES", 10**6)


def trained(world, memory):
    """The candidate of few trees and its folder."""
    few = {"parameters": {"n_estimators": 8, "subsample": 0.9}}
    parts = tuple(part.model_copy(update=few) for part in world.use_case.parts)
    world.use_case = world.use_case.model_copy(update={"parts": parts})
    tools = replace(world.tools, training_memory=memory, evidence=type(world.tools.evidence)())
    tools = replace(tools, tracker=type(world.tools.tracker)(world.tools.tracker.at / str(memory)))
    snapshot = take_snapshot(tools, world.use_case, Wish(), NOW)
    candidate = train(tools, world.use_case, snapshot, Wish(), NOW)
    return candidate, tools.tracker.folder(candidate.run_id)


def same_files(one, other, names):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_model_from_disk_is_the_model_in_memory_byte_for_byte(tmp_path, small):
    world = wide(tmp_path / "world", 5000)
    (one, memory), (other, disk) = trained(world, None), trained(world, 512)
    names = ("release/sum.ubj", "release/golden.json", "tables/slices.csv")
    assert same_files(memory, disk, names)
    assert one.metrics == other.metrics
    assert {file.name for file in (disk / "plots").iterdir()} == {
        file.name for file in (memory / "plots").iterdir()
    }


def test_joined_tables_and_text_are_trained_on_from_disk_too(tmp_path, small):
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world")
    world.use_case = world.use_case.model_copy(update={"in_pieces": True})
    write_drop(world.use_case, world.drop)
    world.ingest(NOW - timedelta(hours=1))
    (one, memory), (other, disk) = trained(world, None), trained(world, 512)
    assert other.metrics["rmse"] == pytest.approx(one.metrics["rmse"], rel=0.05)
    assert pl.read_csv(disk / "tables/slices.csv")["rows"].sort().to_list() == (
        pl.read_csv(memory / "tables/slices.csv")["rows"].sort().to_list()
    )


def test_a_part_with_a_base_is_the_same_from_disk(tmp_path):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(900, 4)).astype(np.float32)
    target = (random.random(900) < 1 / (1 + np.exp(-matrix[:, 0]))).astype(float)
    learner = Learner("classifier", {"n_jobs": 2, "random_state": 0}, base=0)
    whole = learner.fit({"n_estimators": 5, "subsample": 0.8}, matrix, target)

    parts = ((matrix[at : at + 300], target[at : at + 300]) for at in (0, 300, 600))
    by_pieces = learner.fit_by_pieces({"n_estimators": 5, "subsample": 0.8}, parts, tmp_path / "cache")
    assert whole.get_booster().save_raw() == by_pieces.get_booster().save_raw()


def test_the_same_rows_are_held_out_from_disk(tmp_path, small):
    world = wide(tmp_path / "world", 3000)
    snapshot = take_snapshot(world.tools, world.use_case, Wish(), NOW)
    memory = judged_rows(world.tools, world.use_case, snapshot)
    disk = judged_rows(replace(world.tools, training_memory=512), world.use_case, snapshot)
    assert memory.equals(disk)


def test_rows_held_out_by_time_are_the_same_when_only_some_are_seen():
    from pipelines.use_cases.bets import USE_CASE as BETS

    frame = football(600).with_columns(match=pl.lit("m"))
    use_case = BETS.model_copy(update={"held_out": HeldOutByTime(window=timedelta(days=20))})
    whole = rows.held_out(use_case, frame)
    newest = frame["Date"].max()
    parts = [rows.held_out(use_case, frame[at : at + 100], newest) for at in range(0, 600, 100)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert 0 < whole.sum() < 600


def test_rows_in_force_come_in_pieces_as_they_come_at_once(tmp_path):
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world")
    for drop, day in enumerate(range(3)):
        write_drop(world.use_case, world.drop, drop)
        world.ingest(NOW + timedelta(days=day))
    file = world.drop / "exercise-again.csv"
    pl.read_csv(world.drop / "exercise-1.csv").with_columns(pl.col("Age") + 1).write_csv(file)
    world.ingest(NOW + timedelta(days=4))
    at = at_of(world, "exercise")
    version = world.tools.tables.version(at.published)
    for as_of in (NOW + timedelta(days=3), NOW + timedelta(days=5)):
        whole = lake.in_force(world.tools.tables, at, as_of, version, without=lake.LINEAGE)
        parts = [*lake.in_force_by_pieces(world.tools.tables, at, as_of, version, 300)]
        assert {len(part) for part in parts[:-1]} == {300}
        assert pl.concat(parts).equals(whole)


def test_little_memory_is_asked_for_only_where_the_rows_need_more(tmp_path):
    world = wide(tmp_path / "world", 3000)
    snapshot = take_snapshot(world.tools, world.use_case, Wish(), NOW)
    given = replace(world.tools, training_memory=512)
    assert not pieces.too_many(given, world.use_case, snapshot)
    many = snapshot.model_copy(update={"rows": {"rows": 10**8}})
    assert pieces.too_many(given, world.use_case, many)
    assert not pieces.too_many(world.tools, world.use_case, many)
    whole = world.use_case.model_copy(update={"in_pieces": False})
    assert not pieces.too_many(given, whole, many)


def test_pieces_leave_nothing_behind(tmp_path, small, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    trained(wide(tmp_path / "world", 3000), 512)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_use_case_that_is_calibrated_cannot_do_with_pieces(tmp_path):
    use_case = wide(tmp_path / "world", 10).use_case
    part = Part(name="sum", kind="classifier", target="y", calibration="sigmoid")
    with pytest.raises(ValidationError, match="in_pieces: tuning and calibration"):
        type(use_case).model_validate({**dict(use_case), "parts": (part,)})


@pytest.mark.parametrize(
    "cells",
    [
        pl.Series("x", [1, None, 2**60 + 1, -3], pl.Int64),
        pl.Series("x", [0.1, None, float("nan"), float("inf"), -0.0], pl.Float64),
        pl.Series("x", [True, None, False], pl.Boolean),
        pl.Series("x", [None, None], pl.Null),
        pl.Series("x", [1.5, None], pl.Float32),
        pl.Series("x", [1, None], pl.UInt8),
        pl.Series("x", [], pl.Int64),
    ],
)
def test_a_column_of_numbers_is_what_its_cells_are_one_by_one(tmp_path, cells):
    field = Field(name="x", type="number", example=1.0)
    use_case = wide(tmp_path / "world", 10).use_case.model_copy(update={"inputs": (field,)})
    found = rows.columns_of(use_case, cells.to_frame())["x"]
    assert found.tobytes() == rows.column(field, cells.to_list()).tobytes()
    assert (found.dtype, found.flags.writeable) == (np.dtype(np.float64), False)


@pytest.mark.parametrize("entity", [pl.Series([1, 2**62]), pl.Series(["Zoë", "x"]), pl.Series([1.0, 2.5])])
def test_the_bucket_of_an_entity_never_changes(entity):
    wanted = [
        int.from_bytes(blake2b(f"wide:{each}".encode(), digest_size=8).digest()) % rows.BUCKETS for each in entity
    ]
    assert rows._buckets("wide", entity).tolist() == wanted


@pytest.mark.parametrize(
    "entities",
    [
        pl.Series([1, None, -5, 2**62]),
        pl.Series(["Arsenal", None, "Ä\n", ""]),
        pl.Series([1.5, None, 1e20, -0.0, float("nan")]),
        pl.Series([datetime(2024, 1, 1, tzinfo=UTC), None]),
        pl.Series([True, False]),
        pl.Series([], dtype=pl.Int64),
    ],
)
def test_entities_of_every_type_stay_in_the_bucket_of_their_python_text(entities):
    texts = [f"wide:{entity}".encode() for entity in entities.to_list()]
    digests = [blake2b(text, digest_size=8).digest() for text in texts]
    wanted = [int.from_bytes(digest, "big") % rows.BUCKETS for digest in digests]
    assert rows._buckets("wide", entities).tolist() == wanted
