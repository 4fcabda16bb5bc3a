"""What cross-validation is for: choosing parameters within a budget, and calibrating on rows not learnt."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import xgboost
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import KFold, ParameterSampler, TimeSeriesSplit

from pipelines.calibration import finish, log_odds
from pipelines.errors import NotEnoughData
from pipelines.records import Calibrator
from pipelines.records import Part as Fitted
from pipelines.spec import Part, UseCase

log = logging.getLogger(__name__)
Values = NDArray[np.float64]
Matrix = NDArray[np.float32]
Rows = NDArray[np.intp]
Parameters = dict[str, float | int | str]
FOLDS = 5
ALONE = {"classifier": 0.5, "regressor": 0.0}
"""base_score of a part that starts from a base: its trees alone then say what to add to it."""


class Learner(NamedTuple):
    """How one part is fitted, whatever its parameters."""

    kind: Literal["regressor", "classifier"]
    fixed: Mapping[str, Any]
    base: int | None
    """Column of the features that it starts from."""

    def fit(self, parameters: Parameters, matrix: Matrix, target: Values) -> Any:
        """A model of n rows."""
        margin = None if self.base is None else matrix[:, self.base]
        model = self._made(parameters).fit(_columns(matrix), target, base_margin=margin)
        booster = model.get_booster()
        booster.feature_names = booster.feature_types = None  # those of a table, which requests do not have
        return model

    def fit_by_pieces(self, parameters: Parameters, pieces: Iterator[tuple[Matrix, Values]], cache: Path) -> Any:
        """The same model of rows that come in pieces; what XGBoost needs of them again lies beside `cache`.

        scikit-learn's interface takes no pieces: its parameters are used and the booster is put into it.
        """
        model = self._made(parameters)
        told = model.get_xgb_params()
        data = xgboost.ExtMemQuantileDMatrix(
            _OnDisk(pieces, self.base, cache), max_bin=told.get("max_bin"), nthread=told.get("n_jobs")
        )
        booster = xgboost.train(told, data, model.get_num_boosting_rounds())
        model.load_model(booster.save_raw("ubj"))
        return model

    def _made(self, parameters: Parameters) -> Any:
        make = xgboost.XGBRegressor if self.kind == "regressor" else xgboost.XGBClassifier
        alone = {} if self.base is None else {"base_score": ALONE[self.kind]}
        return make(**{"tree_method": "hist", **self.fixed, **parameters, **alone})

    def answer(self, model: Any, matrix: Matrix) -> Values:
        """Values, or probabilities of the positive class; (n,)."""
        raw = model.predict(matrix) if self.kind == "regressor" else model.predict_proba(matrix)[:, 1]
        part = Fitted(name="fold", kind=self.kind, booster="", onnx="", base=self.base)
        return finish(part, np.asarray(raw, np.float64), matrix)


def _columns(matrix: Matrix) -> pa.Table:
    """The features one after another: XGBoost makes the same bins of them as of a matrix, in less time."""
    beside = np.asfortranarray(matrix).T
    return pa.table({str(place): pa.array(cells) for place, cells in enumerate(beside)})


class _OnDisk(xgboost.DataIter):  # type: ignore[misc]
    """Pieces as XGBoost asks for them, several times over; their features are made once and kept on disk."""

    def __init__(self, pieces: Iterator[tuple[Matrix, Values]], base: int | None, cache: Path) -> None:
        self._pieces, self._base, self._cache = pieces, base, cache
        self._made = self._next = 0
        super().__init__(cache_prefix=str(cache))

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over one piece; False behind the last."""
        found = self._kept(self._next) if self._next < self._made else self._new()
        if found is None:
            return False
        matrix, target = found
        margin = None if self._base is None else matrix[:, self._base]
        input_data(data=matrix, label=target, base_margin=margin)
        self._next += 1
        return True

    def reset(self) -> None:
        """From the first one again."""
        self._next = 0

    def _new(self) -> tuple[Matrix, Values] | None:
        found = next(self._pieces, None)
        if found is not None:
            np.save(self._file("x", self._made), found[0])
            np.save(self._file("y", self._made), found[1])
            self._made += 1
        return found

    def _kept(self, place: int) -> tuple[Matrix, Values]:
        return np.load(self._file("x", place)), np.load(self._file("y", place))

    def _file(self, what: str, place: int) -> Path:
        return self._cache.with_name(f"{self._cache.name}-{what}-{place}.npy")


def tune(use_case: UseCase, part: Part, learner: Learner, matrix: Matrix, target: Values) -> Parameters:
    """The best of the declared number of draws from the declared space; the declared parameters are one more."""
    budget = use_case.tuning
    if budget is None:
        return {}
    drawn = ParameterSampler(budget.space, budget.trials, random_state=use_case.seed)
    best, least = Parameters(), np.inf
    for number, trial in enumerate([{}, *drawn]):
        rows, answers = _left_out(use_case, budget.folds, learner, part.parameters | trial, matrix, target)
        error = _error(part.kind, target[rows], answers)
        log.info("tuning part=%s trial %d of %d: error=%.5g %s", part.name, number, budget.trials, error, trial)
        if error < least:
            best, least = trial, error
    return best


def calibrate(
    use_case: UseCase,
    kind: Literal["sigmoid", "temperature", "isotonic"],
    learner: Learner,
    parameters: Parameters,
    matrix: Matrix,
    target: Values,
) -> Calibrator:
    """A calibrator of answers to rows that the answering model had not seen."""
    rows, answers = _left_out(use_case, FOLDS, learner, parameters, matrix, target)
    if kind == "isotonic":
        return _isotonic(answers, target[rows])
    line = LogisticRegression(C=np.inf, fit_intercept=kind == "sigmoid")
    line.fit(log_odds(answers)[:, None], target[rows])
    return Calibrator(kind=kind, slope=float(line.coef_[0, 0]), intercept=float(np.ravel(line.intercept_)[0]))


def _isotonic(answers: Values, happened: Values) -> Calibrator:
    """One corner in the middle of each step, straight lines between: a step itself would turn the last digits
    in which two runtimes differ into another answer (centred isotonic regression, Oron and Flournoy 2017).
    """
    least = 1 / (len(answers) + 2)  # nobody has seen enough to say never
    steps = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(answers, happened)
    level, place = np.unique(steps.predict(answers), return_inverse=True)
    middle = np.bincount(place, answers) / np.bincount(place)
    return Calibrator(kind="isotonic", x=tuple(middle.tolist()), y=tuple(level.tolist()))


def _left_out(
    use_case: UseCase, folds: int, learner: Learner, parameters: Parameters, matrix: Matrix, target: Values
) -> tuple[Rows, Values]:
    """Rows that a fold left out, and what the model of the other (by time: earlier) rows answers to them."""
    if len(target) < 2 * folds:
        raise NotEnoughData(f"{use_case.name}: {len(target)} rows are too few for {folds} folds")
    places, answers = [], []
    for learnt, left in _folds(use_case, folds, len(target)):
        model = learner.fit(parameters, matrix[learnt], target[learnt])
        places.append(left)
        answers.append(learner.answer(model, matrix[left]))
    return np.concatenate(places), np.concatenate(answers)


def _folds(use_case: UseCase, folds: int, n: int) -> Iterator[tuple[Rows, Rows]]:
    """By time the rows are in its order."""
    by_time = use_case.event_time is not None
    split = TimeSeriesSplit(folds) if by_time else KFold(folds, shuffle=True, random_state=use_case.seed)
    return iter(split.split(np.empty(n)))


def _error(kind: str, actual: Values, answers: Values) -> float:
    if kind == "regressor":
        return float(mean_squared_error(actual, answers))
    return float(log_loss(actual, answers, labels=[0, 1]))
