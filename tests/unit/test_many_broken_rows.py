"""All broken rows are found, however many; mended and replayed twice they are published once."""

import json

from pipelines import lake
from pipelines.adapters import plain_text
from tests.unit.test_files import HEAD, at, events_world, ingest, put
from tests.unit.test_quarantine import again, between, counts, set_rules


def broken_and_back(tmp_path, rows, broken):
    """Ingest rows of which every n-th breaks a rule, mend the rule, replay twice; the ledgers and the reasons."""
    world = events_world(tmp_path, rules=[between(10)])
    every = rows // broken
    lines = (f"{i},someone,2024-07-01T12:00:00,{99 if i % every == 0 else 1}\n" for i in range(rows))
    put(world, "events.csv", HEAD + "".join(lines))
    arrived = ingest(world)
    waiting = lake.waiting(world.tools.tables, at(world))
    reasons = {json.dumps(each) for each in waiting["reasons"].to_list()}
    set_rules(world, between(100))
    replayed = [again(world)["published"] for _ in range(2)]
    return arrived, len(waiting), reasons, replayed, counts(world)


def test_ten_thousand_broken_rows_are_all_found_and_all_come_back_once(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "ROWS", 40_000)
    arrived, waiting, reasons, replayed, after = broken_and_back(tmp_path, 100_000, 10_000)
    assert arrived == {"arrived": 100_000, "published": 90_000, "quarantined": 10_000}
    assert (waiting, reasons, replayed) == (10_000, {'["amount is broken"]'}, [10_000, 0])
    assert after == {"arrived": 100_000, "published": 100_000}
