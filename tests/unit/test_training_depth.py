"""Bases, calibration, tuning, splits by time and slices: through the real training and the real gate."""

import json
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from xgboost import XGBRegressor

from pipelines import metrics, rows
from pipelines.adapters import search
from pipelines.adapters.xgboost_parts import XGBoostModeller
from pipelines.serving import predictor
from pipelines.spec import Calibrated, HeldOutByTime, Slice, Tuning, matrix
from pipelines.steps import gate as gating
from pipelines.use_cases import bets
from tests.builders import START, football

BETS = bets.USE_CASE


def assembled(frame):
    return BETS.assemble({"matches": frame}, START).sort("Date", "match")


def fitted(use_case, frame, folder):
    modeller = XGBoostModeller(2)
    manifest = modeller.fit(use_case, rows.columns_of(use_case, frame), rows.targets_of(use_case, frame), folder)
    return modeller, manifest


def with_parts(**changed):
    parts = tuple(part.model_copy(update=changed) for part in BETS.parts)
    return BETS.model_copy(update={"parts": parts})


def test_ranges_pass_over_what_is_missing(tmp_path):
    some, none = f"home_{bets.FORMS[0]}", f"away_{bets.FORMS[0]}"
    frame = assembled(football()).with_columns(pl.lit(None, pl.Float64).alias(none))
    frame = frame.with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col(some)).alias(some))
    _, manifest = fitted(BETS, frame, tmp_path)
    assert none not in manifest.ranges
    assert manifest.ranges[some] == (frame[some].min(), frame[some].max())


def test_a_matrix_of_features_is_what_numpy_would_stack():
    random = np.random.default_rng(0)
    for n in (0, 1, 1000):
        features = [random.normal(size=n), random.integers(0, 9, n), [float("nan")] * n]
        made = matrix(features)
        assert np.array_equal(made, np.column_stack(features).astype(np.float32), equal_nan=True)
        assert (made.dtype, made.flags.f_contiguous) == (np.float32, True)


def test_features_column_by_column_give_the_booster_that_a_matrix_gives():
    random = np.random.default_rng(0)
    features = random.normal(size=(3000, 4)).astype(np.float32)
    features[::7, 2] = np.nan
    target = features[:, 0] + random.normal(size=3000)
    given = {"n_jobs": 2, "random_state": 0, "n_estimators": 20}
    learnt = search.Learner("regressor", given, None).fit({}, features, target).get_booster()
    plain = XGBRegressor(tree_method="hist", **given).fit(features, target).get_booster()
    assert learnt.save_raw() == plain.save_raw()


def test_a_part_with_a_base_and_no_trees_answers_its_base(tmp_path):
    use_case = with_parts(parameters={"n_estimators": 1, "learning_rate": 0.0}, calibration="none")
    frame = assembled(football())
    modeller, manifest = fitted(use_case, frame, tmp_path)
    columns = rows.columns_of(use_case, frame)
    answered = modeller.answer(use_case, manifest, tmp_path, columns)
    for name, said in use_case.baseline(columns).items():
        assert np.allclose(answered[name], said, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "temperature", "sigmoid", "isotonic"])
def test_every_calibrator_is_a_few_numbers_and_answers_alike_online_and_offline(tmp_path, kind):
    use_case = with_parts(calibration=kind)
    frame = assembled(football())
    modeller, manifest = fitted(use_case, frame, tmp_path)
    assert {part.calibrator and part.calibrator.kind for part in manifest.parts} == {
        None if kind == "none" else kind
    }
    columns = rows.columns_of(use_case, frame)
    offline = modeller.answer(use_case, manifest, tmp_path, columns)
    (tmp_path / "release.json").write_text(manifest.model_dump_json())
    online = predictor.Predictor(tmp_path, manifest, use_case, tuple(offline)).answer(columns)
    for name, said in offline.items():
        assert np.allclose(online[name], said, atol=1e-5)
    assert np.allclose(offline["home"] + offline["draw"] + offline["away"], 1)


def test_a_calibrator_mends_what_an_overfitted_model_says(tmp_path):
    bold = {"n_estimators": 100, "max_depth": 5, "learning_rate": 0.5, "min_child_weight": 1}
    frame = assembled(football(2000))
    learnt, judged = frame.head(1500), frame.tail(500)
    errors, scores = {}, {}
    yes = judged["is_home"].to_numpy()
    for kind in ("none", "temperature"):
        use_case = with_parts(parameters=bold, calibration=kind)
        modeller, manifest = fitted(use_case, learnt, tmp_path / kind)
        said = modeller.answer(use_case, manifest, tmp_path / kind, rows.columns_of(use_case, judged))["home"]
        errors[kind] = metrics.expected_calibration_error(said, yes, 10)
        scores[kind] = np.square(said - yes)
    assert errors["temperature"] < errors["none"]
    gained = scores["none"] - scores["temperature"]
    assert gained.mean() > 3 * gained.std(ddof=1) / len(gained) ** 0.5, "surely: by three standard errors, paired"


def test_training_with_calibration_twice_gives_the_same_numbers(tmp_path):
    frame = assembled(football())
    first = fitted(BETS, frame, tmp_path / "a")[1]
    second = fitted(BETS, frame, tmp_path / "b")[1]
    assert first.parts == second.parts
    assert (tmp_path / "a" / "home.ubj").read_bytes() == (tmp_path / "b" / "home.ubj").read_bytes()


def test_tuning_stays_in_its_budget_its_space_and_is_off_by_default(tmp_path, monkeypatch):
    assert BETS.tuning is None
    tried = []
    score = search._left_out
    monkeypatch.setattr(search, "_left_out", lambda *given: tried.append(given[3]) or score(*given))
    space = {"max_depth": (1, 8), "learning_rate": (0.01, 1.0)}
    use_case = with_parts(calibration="none").model_copy(
        update={
            "tuning": Tuning(trials=3, folds=2, space=space),
            "parts": with_parts(calibration="none").parts[:1],
        }
    )
    manifest = fitted(use_case, assembled(football(1200)), tmp_path)[1]
    assert len(tried) == 4
    assert tried[0] == bets.GENTLE, "what is declared is a trial too"
    chosen = manifest.parts[0].parameters
    assert chosen in tried
    assert all(chosen[name] in (*values, bets.GENTLE[name]) for name, values in space.items())


def test_rows_held_out_by_time_are_the_newest_and_the_border_only_moves_forward():
    use_case = BETS.model_copy(update={"held_out": HeldOutByTime(window=timedelta(days=30))})
    frame = assembled(football())
    held = rows.held_out(use_case, frame)
    assert frame.filter(held)["Date"].min() > frame.filter(~held)["Date"].max()
    assert frame.filter(held)["Date"].max() - frame.filter(held)["Date"].min() < timedelta(days=30)
    later = assembled(football(2600))
    newer = rows.held_out(use_case, later)
    assert later.filter(newer)["Date"].min() >= frame.filter(held)["Date"].min()


def test_shuffling_the_future_changes_no_feature_of_the_past():
    frame = football()
    border = START + timedelta(days=180)
    past, future = frame.filter(pl.col("Date") < border), frame.filter(pl.col("Date") >= border)
    other = future.with_columns(
        pl.col("FTHG", "FTAG", "HST", "AST").shuffle(seed=3), pl.col("HomeTeam", "AwayTeam").shuffle(seed=4)
    )
    before = [assembled(pl.concat([past, rest])).filter(pl.col("Date") < border) for rest in (future, other)]
    columns = [rows.columns_of(BETS, each) for each in before]
    assert np.array_equal(*(BETS.features(each, {}) for each in columns), equal_nan=True)
    assert before[0].height == past.height


def test_a_match_knows_nothing_of_its_own_day():
    frame = football()
    day = START + timedelta(days=100)
    changed = frame.with_columns(FTHG=pl.when(pl.col("Date") == day).then(9).otherwise("FTHG"))
    one, other = (assembled(each).filter(pl.col("Date") <= day) for each in (frame, changed))
    assert one.select(field.name for field in BETS.inputs).equals(
        other.select(field.name for field in BETS.inputs)
    )


def judged(use_case=BETS, n=1500, seed=2, **outputs):
    frame = assembled(football(n, seed))
    columns = rows.columns_of(use_case, frame)
    ours = {**bets.baseline(columns), **outputs}
    return gating.Judged(use_case, columns, frame["result"].to_numpy(), ours, None, None)


def test_the_gate_asks_for_calibration_within_the_band_of_a_calibrated_model():
    honest = judged()
    assert gating.judge(honest).passed
    assert {each.output for each in gating.judge(honest).calibration} == {"home", "draw", "away"}
    bold = np.clip(honest.ours["home"] * 1.6, 0, 0.99)
    refused = gating.judge(honest._replace(ours={**honest.ours, "home": bold}))
    assert not refused.passed
    assert "home is off by 0." in refused.reason
    assert "(a calibrated model: up to 0." in refused.reason


def test_the_gate_compares_with_answering_without_a_model():
    honest = judged()
    verdict = gating.judge(honest)
    assert verdict.against_baseline == (0.0, 0.0, 0.0)
    assert "against no model: +0 [+0, +0], margin +0.01" in verdict.reason
    random = np.random.default_rng(0)
    noise = random.dirichlet([8, 8, 8], len(honest.actual)).T
    worse = {**honest.ours, **dict(zip(bets.RESULTS, noise, strict=True))}
    assert "against no model: +" in gating.judge(honest._replace(ours=worse)).reason


def test_a_model_that_is_worse_in_one_slice_only_is_refused_where_the_slices_are_gated():
    strict = BETS.gate.model_copy(update={"slice_worse_by_at_most": 0.05, "worse_by_at_most": 1.0})
    use_case = BETS.model_copy(update={"gate": strict, "calibrated": (), "baseline": None})
    honest = judged(use_case)._replace(champion="3")
    favourites = honest.columns["home_odds"] < 1.5
    assert favourites.sum() >= strict.minimum_rows
    ours = {name: np.where(favourites, 1 / 3, values) for name, values in honest.ours.items()}
    verdict = gating.judge(honest._replace(ours=ours, theirs=honest.ours))
    assert not verdict.passed
    assert verdict.reason.startswith("in home_odds=..1.5 (")
    loose = strict.model_copy(update={"slice_worse_by_at_most": None})
    shown = honest._replace(ours=ours, theirs=honest.ours, use_case=use_case.model_copy(update={"gate": loose}))
    assert gating.judge(shown).passed
    assert [each.name for each in gating.judge(shown).slices] == [each.name for each in verdict.slices]


def test_a_metric_that_does_not_exist_on_the_held_out_rows_never_passes():
    gate = BETS.gate.model_copy(update={"metric": "home_auc", "at_most": 1.0})
    honest = judged(BETS.model_copy(update={"gate": gate}))
    only_wins = honest._replace(actual=np.ones(len(honest.actual)), theirs=honest.ours)
    told = json.loads(gating.judge(only_wins).model_dump_json())
    assert (told["passed"], told["candidate"], told["champion"], told["difference"]) == (False, None, None, None)


def test_declared_contradictions_are_refused_by_name():
    def told(**changed):
        with pytest.raises(ValueError) as refused:
            type(BETS).model_validate({
                **{name: getattr(BETS, name) for name in type(BETS).model_fields},
                **changed,
            })
        return str(refused.value)

    wrong_base = (BETS.parts[0].model_copy(update={"base": "mood"}),)
    assert "parts.home.base: 'mood' is not among feature_names" in told(parts=wrong_base)
    regressor = (BETS.parts[0].model_copy(update={"kind": "regressor"}),)
    assert "parts.home.calibration: only a classifier's" in told(parts=regressor)
    assert "slices: 'mood' is not among inputs" in told(slices=(Slice(by=("mood",)),))
    assert "slices.home_odds: a number needs edges" in told(slices=(Slice(by=("home_odds",)),))
    assert "held_out: by time needs event_time" in told(event_time=None)
    assert "the use case has no baseline" in told(baseline=None)
    assert Calibrated(output="home", event=lambda actual: actual).bins == 10
