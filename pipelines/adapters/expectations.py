"""Great Expectations 1: judges rows by a suite that is kept as JSON.

In a suite, severity `critical` fails the batch, `warning` quarantines the row (or, for a rule about the
batch, warns), `info` only warns. `meta` carries `id` and `reason`; the reason is what a person reads.
"""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines.errors import BadUseCase
from pipelines.tools import Finding

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite
    from great_expectations.datasource.fluent.interfaces import Batch


class ExpectationsValidator:
    """`Validator` over pandas, the engine that names every broken row."""

    def validate(self, rows: pl.DataFrame, suite: Path, parameters: Mapping[str, str]) -> tuple[Finding, ...]:
        """Every rule of the suite that did not hold, in the suite's order."""
        expectations = _load(suite)
        result = _batch(rows).validate(
            expectations,
            result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
            expectation_parameters=dict(parameters),
        )
        if len(result.results) != len(expectations.expectations):
            raise BadUseCase(f"{suite}: only {len(result.results)} rules ran; see the log for the broken ones")
        found = [finding for each in result.results if (finding := _finding(each)) is not None]
        order = [rule.meta["id"] for rule in expectations.expectations]
        return tuple(sorted(found, key=lambda finding: order.index(finding.rule)))


def _load(file: Path) -> "ExpectationSuite":
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    try:
        declared = json.loads(file.read_text())
        suite = gx.ExpectationSuite(**declared)
    except (OSError, ValueError, TypeError) as wrong:
        raise BadUseCase(f"{file}: {wrong}") from wrong
    if len(suite.expectations) != len(declared["expectations"]):
        raise BadUseCase(f"{file}: a rule could not be loaded; see the log")
    unnamed = [rule for rule in declared["expectations"] if not {"id", "reason"} <= set(rule.get("meta", {}))]
    if unnamed:
        raise BadUseCase(f"{file}: rule {unnamed[0]['type']} has no meta.id and meta.reason")
    return suite


def _batch(rows: pl.DataFrame) -> "Batch":
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    # without this each validation leaves a temporary folder behind
    memory = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    context = gx.get_context(
        mode="ephemeral", project_config=DataContextConfig(store_backend_defaults=memory, analytics_enabled=False)
    )
    context.variables.progress_bars = {"globally": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        source = context.data_sources.add_pandas("rows")
        whole = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("rows")
        return whole.get_batch({"dataframe": rows.to_pandas()})


def _finding(each: Any) -> Finding | None:
    """A rule's outcome; broken rows count also where `mostly` lets the rule pass."""
    config = each.expectation_config
    broken = each.result.get("unexpected_index_list")
    if each.success and not broken:
        return None
    raised = [told["exception_message"] for told in _exceptions(each.exception_info) if told["raised_exception"]]
    missing = each.result.get("details", {}).get("mismatched", {}).get("missing", [])
    extra = "; ".join(map(str, raised or missing))
    severity = str(getattr(config.severity, "value", config.severity))
    return Finding(
        rule=config.meta["id"],
        reason=config.meta["reason"] + (f": {extra}" if extra else ""),
        severity="critical" if raised or (severity == "critical" and not each.success) else severity,
        rows=None if raised or broken is None else tuple(sorted({int(row) for row in broken})),
    )


def _exceptions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [info] if "raised_exception" in info else list(info.values())
