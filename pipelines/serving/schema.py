"""The endpoint described: typed bodies for BentoML, and the OpenAPI document of `/docs.json`."""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, create_model
from pydantic import Field as field_of

from pipelines.serving.contract import FLOAT32, Code, bounds
from pipelines.spec import Field, UseCase

UP = "The place is up"
_REFERENCE = "#/components/schemas/{model}"


_Name = Annotated[str, field_of(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
_Key = Annotated[int, field_of(ge=-(2**63), le=2**63 - 1)] | _Name


_YEARS: dict[str, Any] = {"pattern": r"^(19|20|21)\d\d-"}


class Body(BaseModel):
    """Base of all bodies: unknown fields and NaN are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Warning(Body):
    """A value that is valid but was not seen in training."""

    code: Literal["outside_training_range"]
    field: str
    message: str


class Error(Body):
    """What is wrong, in one word and in words, and where."""

    code: str = field_of(json_schema_extra={"enum": [code.word for code in Code]})
    message: str
    field: str | None
    row: int | None


class Failure(Body):
    """Every answer that is none."""

    error: Error


class Accepted(Body):
    """How many labels were kept, and why the others were not."""

    accepted: int
    errors: list[Error]


class Feature(Body):
    """One input, as a client needs to know it."""

    name: str
    type: Literal["number", "integer", "text"]
    unit: str
    range: tuple[float, float] | None
    """Seen in training."""
    minimum: float | None
    maximum: float | None
    choices: list[str] | None
    optional: bool
    example: float | int | str


class Model(Body):
    """What answers here."""

    use_case: str
    version: str
    trained_at: datetime
    metrics: dict[str, float]
    features: list[Feature]
    entity: str
    outputs: list[str]
    target: dict[str, str]
    snapshot: str
    bento: str
    digest: str
    place: str
    role: str | None
    logged: bool
    evidence: dict[str, Any]
    """Of its training and its gate, as the bento carries it."""


class Bodies(NamedTuple):
    """The bodies of one use case."""

    row: type[BaseModel]
    rows: type[BaseModel]
    prediction: type[BaseModel]
    predictions: type[BaseModel]
    label: type[BaseModel]
    labels: type[BaseModel]


def bodies(use_case: UseCase, outputs: tuple[str, ...]) -> Bodies:
    """Generate the typed bodies of a use case."""
    fields: dict[str, Any] = {field.name: _field(field) for field in use_case.inputs}
    who: dict[str, Any] = {
        "prediction_id": (_Name | None, field_of(None, description="The client's own id")),
        use_case.entity: (_Key | None, field_of(None, description="Key of the entity, to meet labels")),
        "event_time": (
            AwareDatetime | None,
            field_of(None, description="Default: the time of the request", json_schema_extra=_YEARS),
        ),
    }
    row = create_model("Row", __base__=Body, **fields, **who)
    rows = create_model(
        "Rows",
        __base__=Body,
        rows=(list[row], field_of(max_length=use_case.serving.batch_limit)),
    )
    values: dict[str, Any] = dict.fromkeys(outputs, (float, ...))
    output = create_model("Output", __base__=Body, **values)
    prediction = create_model(
        "Prediction",
        __base__=Body,
        prediction_id=(str, ...),
        output=(output, ...),
        model_version=(str, ...),
        warnings=(list[Warning], ...),
    )
    predictions = create_model("Predictions", __base__=Body, predictions=(list[prediction | Failure], ...))
    happened: dict[str, Any] = {
        "actual": (
            float,
            field_of(
                ge=-FLOAT32, le=FLOAT32, description=f"{use_case.target}, {use_case.target_unit}".rstrip(", ")
            ),
        ),
        "observed_at": (
            AwareDatetime | None,
            field_of(
                None, description="Default, and at the latest: the time of the request", json_schema_extra=_YEARS
            ),
        ),
    }
    label = create_model("Label", __base__=_naming("prediction_id", use_case.entity), **who, **happened)
    labels = create_model("Labels", __base__=Body, labels=(list[label], ...))
    return Bodies(row, rows, prediction, predictions, label, labels)


def _naming(*names: str) -> type[Body]:
    """A body in which one of these is given."""
    any_of: list[Any] = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]

    class Named(Body):
        model_config = ConfigDict(json_schema_extra=lambda schema: schema.update(anyOf=any_of))

    return Named


def openapi(use_case: UseCase, outputs: tuple[str, ...], version: str) -> dict[str, Any]:
    """The whole contract of one use case as OpenAPI 3.1."""
    each = bodies(use_case, outputs)
    schemas: dict[str, Any] = {}
    for model in (*each, Accepted, Failure, Model):
        schema = model.model_json_schema(ref_template=_REFERENCE)
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    paths = {
        "/predict": {"post": _call("Answer one row", "Row", "200", "Prediction")},
        "/predict/batch": {"post": _call("Answer rows; a bad one fails alone", "Rows", "200", "Predictions")},
        "/labels": {"post": _labels_call()},
        "/model": {"get": _call("What answers here", None, "200", "Model")},
    }
    told = {
        "livez": UP,
        "readyz": UP,
        "healthz": UP,
        "metrics": "Prometheus text",
        "schema.json": "For BentoML's clients",
    }
    paths |= {f"/{name}": {"get": _plain(name, what)} for name, what in told.items()}
    info = {"title": use_case.name, "description": use_case.description, "version": version}
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _field(field: Field) -> tuple[Any, Any]:
    kind: Any = {"number": float, "integer": int, "text": str}[field.type]
    if field.choices:
        kind = Literal[field.choices]
    told: dict[str, Any] = {"description": field.description or None, "examples": [field.example]}
    if field.type != "text":
        least, most = bounds(field)
        told |= {"ge": least, "le": most}
    if field.unit:
        told["json_schema_extra"] = {"unit": field.unit}
    if field.optional:
        return kind | None, field_of(None, **told)
    return Annotated[kind, field_of(**told)], ...


def _call(about: str, body: str | None, status: str, answer: str) -> dict[str, Any]:
    call: dict[str, Any] = {"summary": about, "responses": {status: _json(about, answer)} | _failures()}
    if body:
        call["requestBody"] = {"required": True} | _json(about, body)
    return call


def _labels_call() -> dict[str, Any]:
    call = _call("Say what really happened", "Labels", "202", "Accepted")
    one, many = ({"$ref": _REFERENCE.format(model=name)} for name in ("Label", "Labels"))
    schema = {"oneOf": [one, {"type": "array", "items": one}, many]}
    return call | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _failures() -> dict[str, Any]:
    statuses = sorted({code.status for code in Code})
    told = {
        status: "; ".join(f"{code.word}: {code.meaning}" for code in Code if code.status == status)
        for status in statuses
    }
    return {str(status): _json(meaning, "Failure") for status, meaning in told.items()}


def _json(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=schema)}}}
    return {"description": description, "content": content}


def _plain(name: str, what: str) -> dict[str, Any]:
    return {"summary": name, "responses": {"200": {"description": what}}}
