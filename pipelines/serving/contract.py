"""What a client may send and what it gets back: the typed edge of a use case's endpoint.

Everything is checked while it is decoded (msgspec, in C); only a refused body is looked at twice.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pipelines.spec import Columns, Field, UseCase


class Code(Enum):
    """Every error code: its word, its HTTP status, what it means."""

    BAD_JSON = "bad_json", 400, "The body is not valid JSON in UTF-8 (NaN and Infinity are not JSON)."
    BAD_REQUEST = "bad_request", 400, "The request is not valid HTTP."
    NOT_FOUND = "not_found", 404, "Nothing answers at this path."
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "This path takes another method."
    REQUEST_TIMEOUT = "request_timeout", 408, "The request did not arrive completely in time."
    BODY_TOO_LARGE = "body_too_large", 413, "The body has more bytes than the use case allows."
    BATCH_TOO_LARGE = "batch_too_large", 413, "The body has more rows than the use case allows."
    WRONG_CONTENT_TYPE = "wrong_content_type", 415, "The body must be application/json, not compressed."
    MISSING_FIELD = "missing_field", 422, "A required field is absent."
    UNKNOWN_FIELD = "unknown_field", 422, "The use case declares no field of this name."
    DUPLICATE_FIELD = "duplicate_field", 422, "A field is given twice."
    WRONG_TYPE = "wrong_type", 422, "The value has another type than the field."
    OUT_OF_BOUNDS = "out_of_bounds", 422, "The value is outside of what the field allows."
    NOT_A_CHOICE = "not_a_choice", 422, "The value is none of the field's words."
    BAD_TIME = "bad_time", 422, "A time is RFC 3339 with its offset, between the years 1900 and 2200."
    NO_ANSWER = "no_answer", 422, "The model has no finite answer for this row."
    INTERNAL = "internal", 500, "The model's code failed; the place's log says where."
    LOST = "lost", 502, "The copy of the model that was asked went away before it answered; try again."
    LOG_FULL = "log_full", 503, "The answer could not be recorded, so none is given; try again."
    NO_PLACE = "no_place", 503, "No copy of the model is up at the moment; try again."
    TOO_SLOW = "too_slow", 504, "The model did not answer within the use case's time limit."

    def __init__(self, word: str, status: int, meaning: str) -> None:
        """Each member is these three."""
        self.word = word
        self.status = status
        self.meaning = meaning


class Refused(Exception):
    """A body, or one row of it, that gets a typed error for an answer."""

    def __init__(self, code: Code, message: str, field: str | None = None, row: int | None = None) -> None:
        """Say what is wrong, in words and where."""
        super().__init__(message)
        self.code = code
        self.field = field
        self.row = row

    def at(self, row: int) -> "Refused":
        """The same, naming the row of the body."""
        return Refused(self.code, str(self), self.field, row)

    def body(self) -> dict[str, dict[str, Any]]:
        """What the client reads."""
        told = {"code": self.code.word, "message": str(self), "field": self.field, "row": self.row}
        return {"error": told}


class Rows(NamedTuple):
    """Decoded rows, column by column, and who they are about."""

    columns: Columns
    numbers: NDArray[np.float64]
    """(numeric inputs, n), in the order of `Contract.numbers`; absent values are NaN."""
    cells: Sequence[Sequence[Any]]
    """Each input as sent, (inputs, n), in the order of `Contract.inputs`."""
    client_ids: list[str | None]
    keys: list[str | None]
    event_times: list[int | None]
    """Microseconds since 1970, UTC; None: the time of the request."""

    def only(self, kept: list[int]) -> "Rows":
        """Some of the rows."""
        return Rows(
            {name: values[kept] for name, values in self.columns.items()},
            self.numbers[:, kept],
            [[values[row] for row in kept] for values in self.cells],
            [self.client_ids[row] for row in kept],
            [self.keys[row] for row in kept],
            [self.event_times[row] for row in kept],
        )


class Batch(NamedTuple):
    """The rows of a batch that can be answered, where they stood, and why the others cannot."""

    rows: Rows
    places: list[int]
    refused: list[Refused]


class Label(NamedTuple):
    """What really happened; times are microseconds since 1970, UTC."""

    prediction_id: str | None
    key: str | None
    event_time: int | None
    actual: float
    observed_at: int | None


T = TypeVar("T")
PREDICTION_ID, EVENT_TIME = "prediction_id", "event_time"
_EXACT = 2**53
"""Integers are carried as float64: beyond this they would change."""
FLOAT32 = float(np.finfo(np.float32).max)
_Word = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
_Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
_Whole = Annotated[float, Meta(ge=-(2.0**53), le=2.0**53, multiple_of=1)]
_Key = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | _Whole | _Name
_Time = Annotated[datetime, Meta(tz=True)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = ((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND for year in (1900, 2200))
_WORDS = 200
"""How much of what a client sent is repeated to it."""
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises: refused or malformed, not UTF-8, nested too deep."""


class Contract:
    """The decoders of one use case; made once, used for every request."""

    def __init__(self, use_case: UseCase) -> None:
        """Generate the types that check a body from the use case's inputs."""
        numeric = [field for field in use_case.inputs if field.type != "text"]
        text = [field for field in use_case.inputs if field.type == "text"]
        self.numbers = tuple(field.name for field in numeric)
        self.texts = tuple(field.name for field in text)
        self.inputs = (*self.numbers, *self.texts)
        self.entity = use_case.entity
        self._limit = use_case.serving.batch_limit
        row = _row_type((*numeric, *text), use_case.entity)
        label = _label_type(use_case.entity)
        self._row = msgspec.json.Decoder(row)
        self._rows: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_wrapped("rows", list[row]))  # type: ignore[valid-type]
        self._each_row = msgspec.json.Decoder(_wrapped("rows", list[msgspec.Raw]))
        self._label = msgspec.json.Decoder(label)
        self._each_label = msgspec.json.Decoder(_wrapped("labels", list[msgspec.Raw]))
        self._label_list = msgspec.json.Decoder(list[msgspec.Raw])

    def predict(self, body: bytes) -> Rows:
        """Decode the body of one row; raises Refused."""
        return self._table([self._one(self._row, body)])

    def batch(self, body: bytes) -> Batch:
        """Decode `{"rows": […]}`: in one go when all rows are good, else row by row; raises Refused."""
        try:
            rows = self._rows.decode(body).rows
        except _BROKEN:
            return self._row_by_row(body)
        self._within_limit(rows)
        if self._says_twice(body, rows, around=1) or not all(map(_times_fit, rows)):
            return self._row_by_row(body)
        return Batch(self._table(rows), list(range(len(rows))), [])

    def labels(self, body: bytes) -> tuple[list[Label], list[Refused]]:
        """Decode one label, a list of them, or `{"labels": […]}`; raises Refused when none can be read."""
        start = body.lstrip()[:1]
        if start == b"[":
            _parse(body)
            each = _decoded(self._label_list, body)
        elif start == b"{" and b'"labels"' in body:
            _parse(body)
            _said_once(body)
            each = _decoded(self._each_label, body).labels
        else:
            return [self._one_label(body)], []
        self._within_limit(each)
        return _sorted_out(each, self._one_label)

    def _row_by_row(self, body: bytes) -> Batch:
        _parse(body)
        _said_once(body)
        each = _decoded(self._each_row, body).rows
        self._within_limit(each)
        good, refused = _sorted_out(each, lambda raw: self._one(self._row, raw))
        bad = {one.row for one in refused}
        return Batch(self._table(good), [place for place in range(len(each)) if place not in bad], refused)

    def _one(self, decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
        row = _decoded(decoder, body)
        if self._says_twice(body, [row]):
            _said_once(body)
        if not _times_fit(row):
            raise Refused(Code.BAD_TIME, Code.BAD_TIME.meaning, EVENT_TIME)
        return row

    def _one_label(self, body: bytes) -> Label:
        one = _decoded(self._label, body)
        _said_once(body)
        if one.prediction_id is None and one.key is None:
            raise Refused(Code.MISSING_FIELD, f"A label needs prediction_id or {self.entity}.", PREDICTION_ID)
        for name in (EVENT_TIME, "observed_at"):
            if not _fits(getattr(one, name)):
                raise Refused(Code.BAD_TIME, Code.BAD_TIME.meaning, name)
        return Label(
            one.prediction_id, _text(one.key), _instant(one.event_time), one.actual, _instant(one.observed_at)
        )

    def _says_twice(self, body: bytes, rows: Sequence[Any], around: int = 0) -> bool:
        """Whether a name may stand twice: there are more quotes than those of what was decoded.

        `around`: names that stand around the rows. A null that is written out may be a name too many, too.
        """
        return b"\\" in body or body.count(b'"') != 2 * around + sum(map(self._quotes, rows))

    def _quotes(self, row: Any) -> int:
        """Two for each name with a value, two more for each word."""
        values = msgspec.structs.astuple(row)
        words = values[len(self.numbers) :]
        given = len(values) - values.count(None) + len(words) - words.count(None)
        return 2 * (given - isinstance(row.key, int | float))

    def _within_limit(self, rows: Sequence[Any]) -> None:
        if len(rows) > self._limit:
            raise Refused(
                Code.BATCH_TOO_LARGE, f"{len(rows)} rows are more than {self._limit}; send several batches."
            )

    def _table(self, rows: Sequence[Any]) -> Rows:
        fields = [*zip(*map(msgspec.structs.astuple, rows), strict=True)] or [()] * (len(self.inputs) + 3)
        *cells, ids, keys, times = fields
        split = len(self.numbers)
        numbers = np.array(cells[:split], np.float64).reshape(split, len(rows))
        columns: dict[str, NDArray[Any]] = dict(zip(self.numbers, numbers, strict=True))
        for name, words in zip(self.texts, cells[split:], strict=True):
            columns[name] = np.array(words, object)
        return Rows(
            columns,
            numbers,
            cells,
            [*ids],
            [_text(key) for key in keys],
            [_instant(time) for time in times],
        )


def instant(moment: datetime) -> int:
    """Microseconds since 1970, UTC; the moment must have its offset."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(micros: int) -> datetime:
    """The moment of that many microseconds since 1970, UTC."""
    return _EPOCH + micros * _MICROSECOND


def _text(key: int | float | str | None) -> str | None:
    """A key as the log keeps it; 5 and 5.0 are one number in JSON."""
    if key is None or isinstance(key, str):
        return key
    return str(int(key))


def _instant(moment: datetime | None) -> int | None:
    return None if moment is None else instant(moment)


def _fits(moment: datetime | None) -> bool:
    return moment is None or _FIRST <= instant(moment) < _LAST


def _times_fit(row: Any) -> bool:
    return _fits(row.event_time)


def _row_type(inputs: Iterable[Field], entity: str) -> type[msgspec.Struct]:
    """A struct of the inputs (numbers first), then the client's id, the entity's key and the time."""
    fields: list[Any] = []
    rename = {"client_id": PREDICTION_ID, "key": entity}
    for place, field in enumerate(inputs):
        rename[f"f{place}"] = field.name
        kind = _type_of(field)
        fields.append((f"f{place}", kind | None, None) if field.optional else (f"f{place}", kind))
    fields += [
        ("client_id", _Name | None, None),
        ("key", _Key | None, None),
        (EVENT_TIME, _Time | None, None),
    ]
    return msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, kw_only=True, gc=False)


def _label_type(entity: str) -> type[msgspec.Struct]:
    fields: list[Any] = [
        ("actual", Annotated[float, Meta(ge=-FLOAT32, le=FLOAT32)]),
        ("prediction_id", _Name | None, None),
        ("key", _Key | None, None),
        (EVENT_TIME, _Time | None, None),
        ("observed_at", _Time | None, None),
    ]
    return msgspec.defstruct("Label", fields, rename={"key": entity}, forbid_unknown_fields=True, kw_only=True)


def _wrapped(name: str, kind: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct("Body", [(name, kind)], forbid_unknown_fields=True)


def _type_of(field: Field) -> Any:
    """The type that checks a field while it is decoded; 68 and 68.0 are one number in JSON."""
    if field.type == "text":
        return Literal[field.choices] if field.choices else _Word
    least, most = bounds(field)
    return Annotated[float, Meta(ge=least, le=most, multiple_of=1 if field.type == "integer" else None)]


def bounds(field: Field) -> tuple[float, float]:
    """What a number may be: as declared, else what the model's float32 (and a whole number's float64) can hold."""
    widest = float(_EXACT) if field.type == "integer" else FLOAT32
    least = -widest if field.minimum is None else field.minimum
    return least, widest if field.maximum is None else field.maximum


def _sorted_out(each: Sequence[bytes], decode: "Callable[[bytes], T]") -> tuple[list[T], list[Refused]]:
    good: list[T] = []
    refused: list[Refused] = []
    for place, raw in enumerate(each):
        try:
            good.append(decode(bytes(raw)))
        except Refused as why:
            refused.append(why.at(place))
    return good, refused


def _decoded(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except _BROKEN as why:
        _refuse(body, why)


_TOLD = re.compile(r"field `(?P<field>.*)`$|(?:at|in) `\$\.?(?P<path>.*?)`$", re.DOTALL)
_KINDS = (
    ("Object missing", Code.MISSING_FIELD),
    ("Object contains unknown", Code.UNKNOWN_FIELD),
    ("Invalid enum", Code.NOT_A_CHOICE),
    ("Expected `datetime` with", Code.BAD_TIME),
    ("Invalid RFC3339", Code.BAD_TIME),
    ("Number out", Code.OUT_OF_BOUNDS),
    ("Integer value out", Code.OUT_OF_BOUNDS),
)


def _refuse(body: bytes, why: Exception) -> NoReturn:
    """Name what is wrong: first whether it is JSON at all, then the field."""
    _parse(body)
    told = str(why)
    code = next((code for start, code in _KINDS if told.startswith(start)), None)
    if code is None:
        code = Code.WRONG_TYPE if ", got `" in told else Code.OUT_OF_BOUNDS
    found = _TOLD.search(told)
    field = (found["field"] or found["path"] or "")[:_WORDS] if found else ""
    raise Refused(code, f"{told.split(' - at ')[0][:_WORDS]}.", field or None) from None


def _parse(body: bytes) -> None:
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        return  # JSON, but with a number that no float holds
    except _BROKEN as why:
        raise Refused(Code.BAD_JSON, f"{why}.") from None


def _said_once(body: bytes) -> None:
    """Refuse an object that names a field twice: which of the two was meant cannot be known."""
    try:
        pairs = json.loads(bytes(body), object_pairs_hook=list, parse_int=float)
    except RecursionError as why:
        raise Refused(Code.BAD_JSON, f"{why}.") from None
    names: set[str] = set()
    for name, _ in pairs if bytes(body).lstrip()[:1] == b"{" else ():
        if name in names:
            raise Refused(Code.DUPLICATE_FIELD, "The field is given twice.", name[:_WORDS])
        names.add(name)
