"""Writes the files of a use case from rows: a start that runs at once, for its owner to go on from."""

import glob
import json
import keyword
import re
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
import polars as pl

from pipelines import cells
from pipelines.drafting import draft_fields, draft_suite
from pipelines.errors import BadUseCase, NotEnoughData
from pipelines.spec import RESERVED, UNSPOKEN, Field

FEWEST_ROWS = 50
ROW = "row"
"""Entity of rows that have no key: their own content."""
MOST_WORDS = 50
"""Text with more different words is no feature."""
MODULE = Template('''"""$title: drafted from rows; every line is yours to change."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.spec import Columns, Field, Files, Gate, Outputs, Part, State, Table, UseCase, matrix

if TYPE_CHECKING:
    import polars as pl

INPUTS = (
$inputs
)
OTHERS = (
$others
)
NUMBERS = $numbers
WORDS = $words


def assemble(tables: Mapping[str, "pl.DataFrame"], as_of: datetime) -> "pl.DataFrame":
    """One row a thing to predict; rows whose target is not known yet are left out."""
    import polars as pl

    known = tables["$table"].drop_nulls($target)
    return known.with_columns(
        ($entity_of).alias($entity),
        ($learnt_of).alias("$learnt"),
    )


def fit_state(columns: Columns) -> State:
    """The words of each text."""
    return {name: sorted({word for word in columns[name].tolist() if word is not None}) for name in WORDS}


def features(columns: Columns, state: State) -> NDArray[np.float32]:
    """Numbers as they are, words by their place, unknown ones as NaN; float32 (n, $width)."""
    found = [columns[name] for name in NUMBERS]
    for name in WORDS:
        place = {word: float(at) for at, word in enumerate(state[name])}
        found.append(np.array([place.get(word, np.nan) for word in columns[name]]))
    return matrix(found)


def outputs(raw: Mapping[str, NDArray[np.float64]], columns: Columns) -> Outputs:
    """What is answered, by name."""
    return {"$output": raw["$output"]}


def baseline(columns: Columns) -> Outputs:
    """What one would answer without a model: always the same."""
    return {"$output": np.full(len(columns[INPUTS[0].name]), $usual)}


USE_CASE = UseCase(
    name="$name",
    owner="nobody yet",
    description="$title",
    tables=(
        Table(name="$table", source=Files(pattern=$pattern), key=$key, columns=(*INPUTS, *OTHERS)),
    ),
    inputs=INPUTS,
    entity=$entity,
    target="$learnt",
    horizon=timedelta(days=7),
    feature_names=(*NUMBERS, *WORDS),
    parts=(
        Part(name="$output", kind="$kind", target="$learnt", parameters={"n_estimators": 200, "max_depth": 4}),
    ),
    metrics=$metrics,
    gate=Gate(metric="$metric", at_most=$floor, worse_by_at_most=$margin, minimum_rows=$fewest),
    assemble=assemble,
    fit_state=fit_state,
    features=features,
    outputs=outputs,
    baseline=baseline,
    loss=$loss,
)
''')


class Drafted(NamedTuple):
    """The files of a use case, by their path below its folder."""

    files: dict[str, str]
    told: tuple[str, ...]
    """What was decided, for the owner to check."""


class _Goal(NamedTuple):
    """What is learnt, and what answering without a model costs; expressions as the file has them."""

    kind: str
    output: str
    column: str
    usual: float
    floor: float
    metric: str
    metrics: str
    loss: str


def draft(name: str, file: str, rows: pl.DataFrame, target: str, key: tuple[str, ...]) -> Drafted:
    """All files. BadUseCase where the target cannot be learnt, NotEnoughData with fewer rows than make sense."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,30}", name) or keyword.iskeyword(name):
        raise BadUseCase(f"{name!r} is no name of a use case: a lower-case letter, then letters, digits and _")
    fields = {field.name: field for field in draft_fields(rows)}
    for wanted in (target, *key):
        if wanted not in fields:
            raise BadUseCase(f"{file} has no column {wanted!r}; there are: {', '.join(fields)}")
    if rows.height < FEWEST_ROWS:
        raise NotEnoughData(f"{file}: {rows.height} rows, {FEWEST_ROWS} are the least to learn and to judge by")
    typed = cells.as_text(rows).select(cells.value(field).alias(name) for name, field in fields.items())
    key = key or _unique(fields, typed, target)
    whole = tuple(name for name in fields if not typed.get_column(name).null_count())
    if not key and typed.select(whole).n_unique() < typed.n_unique():
        raise BadUseCase(f"{file}: only columns with empty cells tell some rows apart: say a --key without them")
    inputs = [field for field in fields.values() if field.name not in {target, *key} and _is_feature(field, typed)]
    if not inputs:
        raise BadUseCase(f"{file}: no column is left to learn {target} from")
    left_out = [name for name in fields if name not in {target, *key, *(each.name for each in inputs)}]
    goal = _goal(target, typed)
    suite = json.dumps(draft_suite(ROWS, rows, key), indent=1, ensure_ascii=False)
    module = _module(name, file, fields, inputs, key or whole, target, goal, rows.height)
    told = (
        f"{goal.kind} of {target}",
        f"key: {', '.join(key) or f'the row itself, as no column is unique (--key){_but(fields, whole)}'}",
        f"inputs: {', '.join(field.name for field in inputs)}",
        f"left out: {', '.join(left_out) or 'nothing'}",
        f"gate: {goal.metric} better than always answering {goal.usual:g} ({goal.floor:.4g})",
    )
    return Drafted({f"{name}.py": module, f"expectations/{name}/{ROWS}.json": suite + "\n"}, told)


ROWS = "rows"
"""Name of the one table."""


def _but(fields: dict[str, Field], whole: tuple[str, ...]) -> str:
    """Which columns do not name a row, because some rows lack them."""
    lacking = [name for name in fields if name not in whole]
    return f", but for what may be empty: {', '.join(lacking)}" if lacking else ""


def _unique(fields: dict[str, Field], typed: pl.DataFrame, target: str) -> tuple[str, ...]:
    """The first column that names each row; none where none does."""
    for name, field in fields.items():
        column = typed.get_column(name)
        if (
            name != target
            and field.type in {"integer", "text"}
            and column.is_unique().all()
            and not column.null_count()
        ):
            return (name,)
    return ()


def _is_feature(field: Field, typed: pl.DataFrame) -> bool:
    column = typed.get_column(field.name).drop_nulls()
    if set(field.name) & UNSPOKEN or field.name in RESERVED:
        return False
    if field.type == "time" or column.n_unique() < 2:
        return False
    return field.type != "text" or column.n_unique() <= MOST_WORDS


def _goal(target: str, typed: pl.DataFrame) -> _Goal:
    column = typed.get_column(target).drop_nulls()
    if column.dtype.is_temporal():
        raise BadUseCase(f"{target} is a time; this draft learns numbers or one of two words (--target)")
    words = column.unique().sort().to_list()
    if len(words) < 2:
        raise BadUseCase(f"{target} is always {words[0] if words else 'empty'}: nothing can be learnt")
    if len(words) == 2:
        return _classes(target, words[1], float((column == words[1]).mean() or 0.0))
    if column.dtype == pl.String:
        raise BadUseCase(
            f"{target} has {len(words)} different words; this draft learns numbers or one of two words (--target)"
        )
    return _number(target, column.to_numpy().astype(np.float64))


def _classes(target: str, word: object, share: float) -> _Goal:
    output = f"is_{_name(str(word))}"
    return _Goal(
        kind="classifier",
        output=output,
        column=f"(pl.col({target!r}) == {word!r}).cast(pl.Float64)",
        usual=round(share, 6),
        floor=float(-(share * np.log(share) + (1 - share) * np.log1p(-share))),
        metric="log_loss",
        metrics=_dict(log_loss="mean_log_loss", auc="auc", ece="ece", of=output),
        loss=f'metrics.log_loss("{output}")',
    )


def _number(target: str, values: np.ndarray) -> _Goal:
    output = _name(target)
    return _Goal(
        kind="regressor",
        output=output,
        column=f"pl.col({target!r}).cast(pl.Float64)",
        usual=float(f"{values.mean():.6g}"),
        floor=float(values.std()),
        metric="rmse",
        metrics=_dict(rmse="rmse", mae="mae", of=output),
        loss=f'metrics.squared_error("{output}")',
    )


def _dict(of: str, **made_by: str) -> str:
    """Metrics by name, of one output."""
    return "{" + ", ".join(f'"{name}": metrics.{function}("{of}")' for name, function in made_by.items()) + "}"


def _name(text: str) -> str:
    """Of the form that parts and outputs have."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:24]
    return f"the_{plain}" if not re.match(r"[a-z]", plain) or len(plain) < 2 else plain


def _module(
    name: str,
    file: str,
    fields: dict[str, Field],
    inputs: list[Field],
    key: tuple[str, ...],
    target: str,
    goal: _Goal,
    n: int,
) -> str:
    others = [field for field in fields.values() if field not in inputs]
    return MODULE.substitute(
        **goal._asdict() | {"floor": float(f"{goal.floor:.4g}"), "margin": float(f"{goal.floor * 0.05:.2g}")},
        **_entity(key),
        title=name.replace("_", " ").capitalize(),
        name=name,
        table=ROWS,
        pattern=repr(_pattern(file)),
        inputs="\n".join(f"    {_source(field)}," for field in inputs),
        others="\n".join(f"    {_source(field, required=field.name in key)}," for field in others),
        numbers=repr(tuple(field.name for field in inputs if field.type != "text")),
        words=repr(tuple(field.name for field in inputs if field.type == "text")),
        width=len(inputs),
        target=repr(target),
        learnt=f"learnt_{goal.output}",
        learnt_of=goal.column,
        fewest=max(2, min(100, n // 20)),
    )


def _entity(key: tuple[str, ...]) -> dict[str, str]:
    """A single key is the entity; several together, or the whole row, are it as one text."""
    if len(key) == 1:
        return {"entity": repr(key[0]), "entity_of": f"pl.col({key[0]!r})", "key": repr(key)}
    named = ", ".join(map(repr, key))
    joined = f'pl.concat_str({named}, separator=" ", ignore_nulls=True)'
    return {"entity": repr(ROW), "entity_of": joined, "key": repr(key)}


def _pattern(file: str) -> str:
    """The next files of that name: `exercise.csv`, `exercise-2.csv`."""
    name, dot, kind = file.partition(".")
    return f"{glob.escape(name)}*{dot}{kind}"


def _source(field: Field, *, required: bool = False) -> str:
    """The field as a person writes it."""
    told = {"name": field.name, "type": field.type, "formats": field.formats, "example": field.example}
    optional = field.optional and not required
    shown = [f"{name}={value!r}" for name, value in told.items() if value != ()]
    return f"Field({', '.join(shown)}{', optional=True' if optional else ''})"


def write(drafted: Drafted, folder: Path) -> list[Path]:
    """Write them; BadUseCase, and nothing is written, where one is there already."""
    files = {folder / name: text for name, text in drafted.files.items()}
    there = [str(file) for file in files if file.exists()]
    if there:
        raise BadUseCase(f"{', '.join(there)}: there already; nothing was written")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return list(files)
