"""Great Expectations 1: judges rows by a suite that is kept as JSON.

In a suite, severity `critical` fails the batch, `warning` quarantines the row (or, for a rule about the
batch, warns), `info` only warns. `meta` carries `id` and `reason`; the reason is what a person reads.
"""

import gc
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines.errors import BadUseCase
from pipelines.tools import Finding

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.datasource.fluent.interfaces import Batch
    from pandas import DataFrame

MOST_LEFT = 2_000_000
"""Rows after which the rest of what validations leave in memory is collected: it takes a third of a second."""
LONG = {"unexpected_list", "unexpected_index_list", "partial_unexpected_index_list", "unexpected_rows"}
"""Lists of a result that grow with the rows; the pages and the log tell by counts and examples."""


class ExpectationsValidator:
    """`Validator` over pandas, the engine that names every broken row."""

    def __init__(self) -> None:
        self._left = 0
        self._one = Lock()

    def validate(
        self,
        rows: pl.DataFrame,
        suite: Path,
        parameters: Mapping[str, str],
        *,
        without: Sequence[str] = (),
        page: Path | None = None,
    ) -> tuple[Finding, ...]:
        """Every rule that did not hold, in the suite's order; contexts are global, so one thread at a time."""
        with self._one:
            try:
                return self._validated(rows, suite, parameters, without, page)
            finally:
                _seen.clear()

    def _validated(
        self,
        rows: pl.DataFrame,
        suite: Path,
        parameters: Mapping[str, str],
        without: Sequence[str],
        page: Path | None,
    ) -> tuple[Finding, ...]:
        _look_once()
        expectations = _load(suite, frozenset(without))
        frame = rows.to_pandas()
        result = _batch(frame).validate(
            expectations,
            result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
            expectation_parameters=dict(parameters),
        )
        if len(result.results) != len(expectations.expectations):
            raise BadUseCase(f"{suite}: only {len(result.results)} rules ran; see the log for the broken ones")
        found = [finding for each in result.results if (finding := _finding(each)) is not None]
        order = [rule.meta["id"] for rule in expectations.expectations]
        if page is not None:
            _draw(result, page)
        # its objects hold each other, and the frame, until the next full collection: many batches would pile up
        frame.drop(columns=list(frame.columns), inplace=True)
        self._left += len(rows)
        if self._left >= MOST_LEFT:
            del result
            gc.collect()
            self._left = 0
        return tuple(sorted(found, key=lambda finding: order.index(finding.rule)))


def _draw(result: Any, page: Path) -> None:
    """Data Docs' page of one run, with counts and examples; half a million places of rows would be no page."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.util import convert_to_json_serializable

    for each in result.results:
        short = convert_to_json_serializable({k: v for k, v in each.result.items() if k not in LONG})
        each.result = json.loads(json.dumps(short))  # the renderer stumbles over NumPy's numbers
    html = _view().render(ValidationResultsPageRenderer().render(result))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".partial").write_text(html)
    page.with_suffix(".partial").replace(page)


@cache
def _view() -> Any:
    """The page's view, with each template compiled once; Data Docs' own compiles them for each piece of a page."""
    from great_expectations.render.view import DefaultJinjaPageView

    class View(DefaultJinjaPageView):  # type: ignore[misc]
        @cache  # ruff: ignore[cached-instance-method] - there is one view
        def _get_template(self, template_str: str) -> Any:
            return super()._get_template(template_str)

    return View()


_seen: dict[tuple[int, Any], tuple[Any, Any]] = {}
"""What was made of an object, by its identity, as long as one validation; it is held, so that no other has it."""
PLAIN = (str, int, float, bool, type(None))


@cache
def _look_once() -> None:
    """A rule's configuration, a configuration's rule and a metric's name are made once in a validation.

    Anew each of the hundred times that it looks at them they are two thirds of what twenty rules cost beside
    their rows.
    """
    from great_expectations.core.id_dict import IDDict
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    Expectation.configuration = property(_once(Expectation.configuration.fget))
    ExpectationConfiguration.to_domain_obj = _once(ExpectationConfiguration.to_domain_obj)
    named_anew = IDDict.to_id

    @lru_cache(maxsize=1000)
    def named(items: tuple[tuple[str, Any, type], ...]) -> Any:
        return named_anew(IDDict({key: value for key, value, _ in items}))

    def to_id(words: Any, *asked: Any, **how: Any) -> Any:
        if asked or how or not all(type(value) in PLAIN for value in words.values()):
            return named_anew(words, *asked, **how)
        return named(tuple((key, value, type(value)) for key, value in words.items()))

    IDDict.to_id = to_id


def _once(made_anew: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def made(one: Any) -> Any:
        key = (id(one), made_anew)
        if key not in _seen:
            _seen[key] = (one, made_anew(one))
        return _seen[key][1]

    return made


def _load(file: Path, without: frozenset[str] = frozenset()) -> "ExpectationSuite":
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    try:
        declared = _leave_out(json.loads(file.read_text()), without)
        suite = gx.ExpectationSuite(**declared)
    except (OSError, ValueError, TypeError) as wrong:
        raise BadUseCase(f"{file}: {wrong}") from wrong
    if len(suite.expectations) != len(declared["expectations"]):
        raise BadUseCase(f"{file}: a rule could not be loaded; see the log")
    unnamed = [rule for rule in declared["expectations"] if not {"id", "reason"} <= set(rule.get("meta", {}))]
    if unnamed:
        raise BadUseCase(f"{file}: rule {unnamed[0]['type']} has no meta.id and meta.reason")
    return suite


def _leave_out(declared: dict[str, Any], without: frozenset[str]) -> dict[str, Any]:
    """The suite for rows that lack these columns: rules about them are gone, sets of columns do without."""
    kept = [rule for rule in declared["expectations"] if not without & set(_columns(rule["kwargs"]))]
    for rule in kept:
        if without and "column_set" in rule["kwargs"]:
            rule["kwargs"]["column_set"] = [each for each in rule["kwargs"]["column_set"] if each not in without]
    return {**declared, "expectations": kept}


def _columns(kwargs: Any) -> Iterator[str]:
    """Every column that a rule looks at, its row condition's too."""
    yield from (kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs)
    yield from kwargs.get("column_list", ())
    for condition in (kwargs.get("row_condition") or {}).get("conditions", ()):
        yield condition["column"]["name"]


def _batch(frame: "DataFrame") -> "Batch":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _any_frame().get_batch({"dataframe": frame})


@cache
def _any_frame() -> "BatchDefinition[Any]":
    """Where any frame is a batch; to make it anew writes the configuration of its context thrice."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults
    from great_expectations.execution_engine import pandas_execution_engine

    # frames below this size are hashed, twice, for a line of the page: most of the time of a million rows
    pandas_execution_engine.HASH_THRESHOLD = 0
    # without this each context leaves a temporary folder behind
    memory = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    context = gx.get_context(
        mode="ephemeral", project_config=DataContextConfig(store_backend_defaults=memory, analytics_enabled=False)
    )
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("rows")
    return source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("rows")


def _finding(each: Any) -> Finding | None:
    """A rule's outcome; broken rows count also where `mostly` lets the rule pass."""
    config = each.expectation_config
    broken = each.result.get("unexpected_index_list")
    if each.success and not broken:
        return None
    told = [told["exception_message"] for told in _exceptions(each.exception_info) if told["raised_exception"]]
    raised = list(dict.fromkeys(told))
    missing = each.result.get("details", {}).get("mismatched", {}).get("missing", [])
    extra = "; ".join(map(str, raised or missing))
    severity = str(getattr(config.severity, "value", config.severity))
    return Finding(
        rule=config.meta["id"],
        reason=config.meta["reason"] + (f": {extra}" if extra else ""),
        severity="critical" if raised or (severity == "critical" and not each.success) else severity,
        rows=None if raised or broken is None else tuple(sorted({int(row) for row in broken})),
        asked=not raised,
    )


def _exceptions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [info] if "raised_exception" in info else list(info.values())
