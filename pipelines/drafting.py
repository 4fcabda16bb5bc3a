"""Drafts what a person then reviews: the fields of a table and its suite, from rows that are there.

A draft says what these rows show, with head-room; it cannot know what is right. So every rule about rows
has severity `warning`, and a column keeps its kind although a few of its cells do not fit.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from pipelines import cells
from pipelines.spec import Field

FITS = 0.95
"""Share of the cells that must read as a kind for the column to be of that kind."""
HEAD_ROOM = 0.1
"""A range is wider than the one seen by this share of it, at each end."""
FEW_WORDS = 12
"""Text with at most so many different words, each seen several times, is a choice among them."""
SEEN = 5.0
"""How often each word must be seen on average."""
FORMATS = (
    (),
    ("%d/%m/%y", "%d/%m/%Y"),
    ("%m/%d/%y", "%m/%d/%Y"),
    ("%d.%m.%Y",),
    ("%Y/%m/%d",),
    ("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S"),
    ("%Y-%m-%d %H:%M",),
)
"""Ways to write a time, tried in order; day first before month first where both fit."""
MEANS_NOTHING = ("", "nan", "null", "none", "n/a", "na", "-")
Rule = dict[str, Any]


def draft_fields(rows: pl.DataFrame) -> tuple[Field, ...]:
    """A field for each column of the rows (text cells or typed ones), with the first value as its example."""
    text = cells.as_text(rows)
    return tuple(_field(name, text.get_column(name)) for name in text.columns if name.strip())


def draft_suite(table: str, rows: pl.DataFrame, key: Sequence[str] = ()) -> dict[str, Any]:
    """A suite for a table of that name, as the JSON of `expectations/<use case>/<table>.json`."""
    fields = draft_fields(rows)
    text = cells.as_text(rows)
    typed = text.select(cells.value(field).alias(field.name) for field in fields)
    rules = [*_batch_rules(fields), *_key_rules(key, typed)]
    for field in fields:
        rules += _column_rules(field, typed.get_column(field.name))
    rules += _conditional_rules(fields, typed)
    return {
        "name": table,
        "meta": {"drafted": f"from {rows.height} rows; review every rule"},
        "expectations": rules,
    }


def _field(name: str, column: pl.Series) -> Field:
    known = column.filter(~column.str.strip_chars().str.to_lowercase().is_in(MEANS_NOTHING).fill_null(True))
    shape = next((shape for shape in _shapes(name) if _fits(shape, known)), None) if len(known) else None
    shape = shape or Field(name=name, type="text", example="")
    values = known.to_frame(name).select(cells.value(shape)).to_series().drop_nulls()
    example = values.first() if len(values) else ""
    if shape.type == "time":
        example = str(known.first())
    return shape.model_copy(update={"example": example, "optional": len(known) < len(column)})


def _shapes(name: str) -> Iterator[Field]:
    yield Field(name=name, type="integer", example=0)
    yield Field(name=name, type="number", example=0.0)
    for formats in FORMATS:
        yield Field(name=name, type="time", formats=formats, example="")


def _fits(shape: Field, known: pl.Series) -> bool:
    """Enough cells are of that kind; a source that writes `29.0` means numbers, not whole ones."""
    frame = known.to_frame(shape.name)
    read = frame.select(cells.value(shape)).to_series()
    if shape.type == "integer" and known.str.contains(".", literal=True).any():
        return False
    return 1 - read.null_count() / len(known) >= FITS


def _rule(kind: str, name: str, reason: str, severity: str = "warning", **kwargs: Any) -> Rule:
    return {"type": kind, "kwargs": kwargs, "severity": severity, "meta": {"id": name, "reason": reason}}


def _batch_rules(fields: tuple[Field, ...]) -> Iterator[Rule]:
    required = [field.name for field in fields if not field.optional]
    yield _rule(
        "expect_table_columns_to_match_set",
        "columns",
        "a declared column is missing",
        "critical",
        column_set=[*required, "received_at"],
        exact_match=False,
    )
    yield _rule(
        "expect_table_row_count_to_be_between", "volume", "the batch holds no rows", "critical", min_value=1
    )
    yield _rule(
        "expect_column_max_to_be_between",
        "fresh",
        "the newest arrival is older than allowed",
        "info",
        column="received_at",
        min_value={"$PARAMETER": "fresh_after"},
    )


def _key_rules(key: Sequence[str], typed: pl.DataFrame) -> Iterator[Rule]:
    """The key is unique within a batch; only where it is so in these rows: elsewhere rows are revisions."""
    if not key or typed.select(key).is_duplicated().any():
        return
    if len(key) == 1:
        yield _rule("expect_column_values_to_be_unique", "key", f"{key[0]} stands twice", "info", column=key[0])
    else:
        yield _rule(
            "expect_compound_columns_to_be_unique",
            "key",
            f"{', '.join(key)} stand together twice",
            "info",
            column_list=list(key),
        )


def _column_rules(field: Field, column: pl.Series) -> Iterator[Rule]:
    name, known = field.name, column.drop_nulls()
    if not field.optional and column.null_count() == 0:
        yield _rule("expect_column_values_to_not_be_null", f"{name}_known", f"{name} is missing", column=name)
    if field.type in {"number", "integer"} and len(known):
        low, high = _range(field, known)
        yield _rule(
            "expect_column_values_to_be_between",
            f"{name}_range",
            f"{name} is outside {low:g} to {high:g}",
            column=name,
            min_value=low,
            max_value=high,
        )
    words = sorted(known.unique()) if field.type == "text" else []
    if 0 < len(words) <= FEW_WORDS and len(known) / len(words) >= SEEN:
        reason = f"{name} is none of {', '.join(words)}"
        yield _rule("expect_column_values_to_be_in_set", f"{name}_words", reason, column=name, value_set=words)


def _range(field: Field, known: pl.Series) -> tuple[float, float]:
    """The range seen with head-room, not across zero where no value was."""
    low, high = float(known.min()), float(known.max())  # type: ignore[arg-type]
    room = max((high - low) * HEAD_ROOM, 0.5)
    wide = (0.0 if low >= 0 and low < room else low - room, 0.0 if high <= 0 and -high < room else high + room)
    if field.type == "integer":
        return float(int(wide[0])), float(int(wide[1] + 0.999))
    return float(f"{wide[0]:.6g}"), float(f"{wide[1]:.6g}")


def _conditional_rules(fields: tuple[Field, ...], typed: pl.DataFrame) -> Iterator[Rule]:
    """What is known for every row of one word of a choice, and not for every row: `odds, where won is yes`."""
    for choice in fields:
        words = typed.get_column(choice.name).drop_nulls().unique().to_list() if choice.type == "text" else []
        if not 1 < len(words) <= FEW_WORDS or typed.height / len(words) < SEEN:
            continue
        for field in fields:
            known = typed.group_by(choice.name).agg(share=pl.col(field.name).is_not_null().mean(), rows=pl.len())
            always = known.filter((pl.col("share") == 1) & (pl.col("rows") >= SEEN)).drop_nulls(choice.name)
            never = known.filter(pl.col("share") == 0)
            if field.name == choice.name or not len(never) or not len(always):
                continue
            for word in sorted(always.get_column(choice.name)):
                yield _known_where(field.name, choice.name, word)


def _known_where(name: str, choice: str, word: str) -> Rule:
    where = {"type": "comparison", "column": {"name": choice}, "operator": "==", "parameter": word}
    return _rule(
        "expect_column_values_to_not_be_null",
        f"{name}_known_{choice}_{word}",
        f"{name} is missing although {choice} is {word}",
        column=name,
        row_condition={"type": "and", "conditions": [where]},
    )
