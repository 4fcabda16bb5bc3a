"""Law L4 where files overtake each other: which revision a version could have learnt from."""

from datetime import timedelta
from types import SimpleNamespace

import polars as pl

from pipelines import lineage
from pipelines.records import Wish
from pipelines.steps.snapshot import take_snapshot
from pipelines.tools import Evidence
from tests.builders import NOW, World, replace, write_drop

HOUR = timedelta(hours=1)


def test_of_an_entity_s_revisions_the_one_that_was_in_force_was_in_the_snapshot(tmp_path):
    world = World(tmp_path)
    world.tools = replace(world.tools, tables_at=str(tmp_path / "calories"))
    write_drop(world.use_case, world.drop)
    world.ingest(NOW)
    (file,) = world.drop.glob("exercise*.csv")
    rows = pl.read_csv(file)
    entity = str(rows["User_ID"][4])

    def corrected(name, heart_rate, now):
        changed = pl.col("Heart_Rate") * 0 + heart_rate
        rows[4:5].with_columns(Heart_Rate=changed).write_csv(world.drop / name)
        world.ingest(now)

    corrected("exercise-second.csv", 100, NOW + HOUR)
    snapshot = take_snapshot(world.tools, world.use_case, Wish(), NOW + 2 * HOUR)
    corrected("exercise-third.csv", 101, NOW + 3 * HOUR)
    evidence = Evidence.model_construct(snapshot=snapshot)
    home = SimpleNamespace(tables=tmp_path)
    found = lineage._rows_of(world.tools.tables, home, world.use_case, evidence, entity)
    told = [(row.file, row.revision, row.in_snapshot, row.replaced) for row in found if row.table == "exercise"]
    assert told == [
        (file.name, 1, False, True),
        ("exercise-second.csv", 2, True, False),
        ("exercise-third.csv", 3, False, False),
    ]
