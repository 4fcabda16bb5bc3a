"""Simulated clients: what is sent when, and what is made of the answers."""

import asyncio
from datetime import UTC, datetime
from itertools import islice

import numpy as np
import pytest
from aiohttp import web

from pipelines.adapters.readers import Readers
from pipelines.errors import BadSettings, ServiceAway
from pipelines.simulation import drive as driving
from pipelines.simulation import plan as read
from pipelines.simulation import rows as sources
from pipelines.simulation.drive import Drive
from pipelines.simulation.plan import Plan, requests, times
from pipelines.use_cases.calories import USE_CASE
from tests.builders import write_drop

NOW = datetime(2026, 1, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def rows():
    return sources.from_simulation(USE_CASE, 1, 500, NOW)


# --- what is sent when --------------------------------------------------------------------------------------


def test_the_same_seed_sends_the_same_and_another_seed_does_not(rows):
    def stream(seed):
        plan = Plan(seed=seed, rows=900, batch=3, label_loss=0.3, label_delay=read.delay("exp:2m"))
        return list(requests(USE_CASE, plan, rows))

    assert stream(1) == stream(1)
    assert stream(1) != stream(2)


def test_a_change_of_loss_leaves_rows_and_delays_as_they_were(rows):
    def told(loss):
        plan = Plan(rows=200, label_loss=loss, label_delay=read.delay("exp:2m"))
        return [(request.rows, request.labels[0].after) for request in requests(USE_CASE, plan, rows)]

    for (row, after), (same, maybe) in zip(told(0.0), told(0.5), strict=True):
        assert row == same and maybe in {None, after}


def test_rows_that_are_used_up_come_again_in_another_order(rows):
    n = len(rows.actual)
    stream = list(requests(USE_CASE, Plan(rows=2 * n, batch=n), rows))
    first, second = ([row["User_ID"] for row in request.rows] for request in stream)
    assert first != second and sorted(first) == sorted(second)


def test_a_stream_ends_with_its_rows_or_its_time(rows):
    assert sum(len(each.rows) for each in requests(USE_CASE, Plan(rows=10, batch=3), rows)) == 10
    assert len(list(times(Plan(rate=10, duration=2.0)))) == pytest.approx(20, abs=1)


def test_bursts_begin_a_period_and_idle_times_end_it():
    plan = Plan(rate=10, duration=20.0, burst=read.burst("5x:2s/10s"), idle=read.idle("3s/10s"))
    at = np.array(list(times(plan)))
    assert ((at % 10 < 2).sum(), (at % 10 >= 7.001).sum()) == (pytest.approx(200, abs=4), 0)
    assert ((at % 10 >= 2) & (at % 10 < 7)).sum() == pytest.approx(100, abs=4)


def test_delays_have_their_mean_and_losses_their_share(rows):
    plan = Plan(rows=4000, batch=100, label_loss=0.1, label_delay=read.delay("exp:2m"))
    after = [label.after for request in requests(USE_CASE, plan, rows) for label in request.labels]
    kept = [each for each in after if each is not None]
    assert len(kept) / 4000 == pytest.approx(0.9, abs=0.02)
    assert np.mean(kept) == pytest.approx(120, rel=0.1)


def test_a_shift_moves_its_column_from_its_time_on_within_what_is_allowed(rows):
    shifts = tuple(read.shift(each, USE_CASE) for each in ("heart_rate=+0.5sd", "WEIGHT=*100", "Age=-1"))
    plan = Plan(rate=1, rows=len(rows.actual), shifts=shifts, shift_after=100)
    plain = list(requests(USE_CASE, plan.model_copy(update={"shifts": ()}), rows))
    moved = list(requests(USE_CASE, plan, rows))
    assert plain[:100] == moved[:100]
    spread = float(np.std(rows.columns["Heart_Rate"]))
    for before, after in zip(plain[100:], moved[100:], strict=True):
        assert after.labels == before.labels
        assert after.rows[0]["Heart_Rate"] == pytest.approx(before.rows[0]["Heart_Rate"] + 0.5 * spread)
        assert after.rows[0]["Weight"] == 300
        assert after.rows[0]["Age"] == before.rows[0]["Age"] - 1


@pytest.mark.parametrize(
    ("reader", "wrong"),
    [(read.length, "5 apples"), (read.burst, "10:30s/5m"), (read.burst, "2x:9m/5m"), (read.idle, "30s"),
     (read.delay, "normal:2m")],
)  # fmt: skip
def test_what_cannot_be_read_says_how_to_write_it(reader, wrong):
    with pytest.raises(BadSettings, match=r"write|shorter"):
        reader(wrong)


@pytest.mark.parametrize("wrong", ["Gender=+1", "mood=+1", "Age", "Age=*2sd"])
def test_a_shift_of_no_number_is_refused(wrong):
    with pytest.raises(BadSettings):
        read.shift(wrong, USE_CASE)


def test_rows_of_real_files_are_assembled_and_broken_ones_left_out(tmp_path):
    write_drop(USE_CASE, tmp_path, 1)
    file = tmp_path / "exercise-1.csv"
    whole = sources.from_files(USE_CASE, tmp_path, Readers(), NOW)
    head, first, *others = file.read_text().splitlines()
    file.write_text("\n".join([head, first.replace("male", "male").replace(first.split(",")[2], "old"), *others]))
    broken = sources.from_files(USE_CASE, tmp_path, Readers(), NOW)
    assert (len(whole.actual), len(broken.actual)) == (400, 399)
    with pytest.raises(BadSettings, match="no folder"):
        sources.from_files(USE_CASE, tmp_path / "nowhere", Readers(), NOW)


def test_a_file_that_an_ingest_refuses_keeps_nobody_from_simulating(tmp_path, caplog):
    write_drop(USE_CASE, tmp_path, 1)
    whole = sources.from_files(USE_CASE, tmp_path, Readers(), NOW)
    (tmp_path / "exercise-0.csv").write_bytes(b"\0\1\2")
    (tmp_path / "exercise-2.csv").write_text("User_ID,Gender\n1,male\n")
    assert sources.from_files(USE_CASE, tmp_path, Readers(), NOW).keys == whole.keys
    assert "exercise-0.csv is left out: the file is no text" in caplog.text
    assert "exercise-2.csv is left out: no column Age" in caplog.text
    (tmp_path / "exercise-1.csv").unlink()
    with pytest.raises(BadSettings, match="no file like exercise"):
        sources.from_files(USE_CASE, tmp_path, Readers(), NOW)


def test_another_seed_takes_other_entities():
    one, two = (set(sources.from_simulation(USE_CASE, seed, 900, NOW).keys) for seed in (1, 2))
    assert len(one) == 1200 and not one & two


# --- what is made of the answers ----------------------------------------------------------------------------


class Answering:
    """An endpoint that answers as it is told, on a real socket."""

    def __init__(self, wait: float = 0.0, refuse_every: int = 0):
        self.wait, self.refuse_every = wait, refuse_every
        self.rows, self.labels = [], []

    async def model(self, _):
        return web.json_response({})

    async def predict(self, request):
        await asyncio.sleep(self.wait)
        self.rows.append(await request.json())
        n = len(self.rows)
        if self.refuse_every and n % self.refuse_every == 0:
            return web.json_response({"error": {"code": "out_of_bounds"}}, status=422)
        return web.json_response({"prediction_id": f"p{n}", "output": {"calories": 100.0}})

    async def told(self, request):
        labels = await request.json()
        self.labels += labels
        return web.json_response({"accepted": len(labels), "errors": []}, status=202)

    async def drive(self, plan, rows, stop_after=None, watch=lambda _: None):
        app = web.Application()
        app.router.add_get("/c/model", self.model)
        app.router.add_post("/c/predict", self.predict)
        app.router.add_post("/c/labels", self.told)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        try:
            one = Drive(USE_CASE, plan, f"http://127.0.0.1:{port}/c")
            if stop_after is not None:
                asyncio.get_running_loop().call_later(stop_after, one.stop)
            return await one.run(requests(USE_CASE, plan, rows), watch)
        finally:
            await runner.cleanup()


def test_every_row_is_sent_and_every_label_that_is_not_lost_is_told(rows):
    endpoint = Answering(refuse_every=10)
    plan = Plan(rate=2000, rows=200, label_loss=0.25, label_delay=read.delay("50ms"))
    done = asyncio.run(endpoint.drive(plan, rows))
    assert (done.requests, done.sent, done.answered, done.refused) == (200, 200, 180, {"out_of_bounds": 20})
    assert done.labels + done.labels_lost == 180
    assert done.labels == len(endpoint.labels) == len({each["prediction_id"] for each in endpoint.labels})
    assert 20 < done.labels_lost < 70
    assert done.mean_loss.n == 180
    assert done.metrics["rmse"].value == pytest.approx(done.mean_loss.value**0.5)


def test_labels_by_key_name_the_entity(rows):
    endpoint = Answering()
    asyncio.run(endpoint.drive(Plan(rate=2000, rows=20, labels_by="key"), rows))
    assert {each["User_ID"] for each in endpoint.labels} == {each["User_ID"] for each in endpoint.rows}
    assert not any("prediction_id" in each for each in endpoint.labels)


def test_a_late_start_is_counted_as_latency(rows, monkeypatch):
    monkeypatch.setattr(driving, "LINES", 1)
    done = asyncio.run(Answering(wait=0.05).drive(Plan(rate=1000, rows=20), rows))
    assert done.latency_ms["max"] > 20 * 50 - 100
    assert done.latency_ms["p50"] > 300


def test_progress_tells_the_latency_of_the_newest_requests_and_the_end_that_of_all(rows, monkeypatch):
    monkeypatch.setattr(driving, "RECENT", 1)
    monkeypatch.setattr(driving, "REFRESH_SECONDS", 0.01)
    seen = []
    done = asyncio.run(Answering(wait=0.05).drive(Plan(rate=200, rows=40), rows, watch=seen.append))
    told = [each.latency_ms for each in seen if each.latency_ms]
    assert told and all(len(set(each.values())) == 1 for each in told)
    assert done.latency_ms["p50"] < done.latency_ms["max"]
    assert max(each["max"] for each in told) <= done.latency_ms["max"]


def test_a_stop_ends_it_with_a_summary(rows):
    done = asyncio.run(Answering().drive(Plan(rate=50, duration=600.0), rows, stop_after=0.5))
    assert done.interrupted
    assert 5 < done.answered < 60


def test_nobody_there_is_a_passing_error_and_another_machine_is_refused(rows):
    async def far():
        await Drive(USE_CASE, Plan(rows=1), "http://127.0.0.1:9/c").run(iter(()))

    with pytest.raises(ServiceAway):
        asyncio.run(far())
    with pytest.raises(BadSettings, match="this machine"):
        Drive(USE_CASE, Plan(rows=1), "http://example.org/c")


def test_without_an_end_a_stream_goes_on():
    assert len(list(islice(times(Plan()), 1000))) == 1000
