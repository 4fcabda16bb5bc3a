import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.serving.contract import Code, Contract, Refused
from pipelines.spec import Field
from pipelines.use_cases.calories import USE_CASE

CONTRACT = Contract(USE_CASE)
ROW = {field.name: field.example for field in USE_CASE.inputs}


def refusal(body: bytes, decode=CONTRACT.predict) -> Refused:
    with pytest.raises(Refused) as why:
        decode(body)
    return why.value


def encoded(**changed: object) -> bytes:
    return json.dumps(ROW | changed).encode()


def test_a_row_becomes_columns_in_the_types_of_the_use_case():
    rows = CONTRACT.predict(encoded(User_ID=5, prediction_id="mine", event_time="2026-01-01T02:00:00+02:00"))
    assert rows.columns["Age"].dtype == float
    assert rows.columns["Gender"].tolist() == ["male"]
    assert (rows.keys, rows.client_ids, rows.event_times) == (["5"], ["mine"], [1767225600000000])


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"Age": 9}, Code.OUT_OF_BOUNDS, "Age"),
        ({"Age": 68.5}, Code.OUT_OF_BOUNDS, "Age"),
        ({"Age": "68"}, Code.WRONG_TYPE, "Age"),
        ({"Age": None}, Code.WRONG_TYPE, "Age"),
        ({"Age": True}, Code.WRONG_TYPE, "Age"),
        ({"Height": 10**400}, Code.OUT_OF_BOUNDS, "Height"),
        ({"User_ID": 10**4000}, Code.OUT_OF_BOUNDS, "User_ID"),
        ({"Gender": "other"}, Code.NOT_A_CHOICE, "Gender"),
        ({"Shoe": 42}, Code.UNKNOWN_FIELD, "Shoe"),
        ({"event_time": "2026-01-01T00:00:00"}, Code.BAD_TIME, "event_time"),
        ({"event_time": "0001-01-01T00:00:00+14:00"}, Code.BAD_TIME, "event_time"),
        ({"event_time": "yesterday"}, Code.BAD_TIME, "event_time"),
        ({"prediction_id": "x" * 129}, Code.OUT_OF_BOUNDS, "prediction_id"),
        ({"User_ID": "\0"}, Code.OUT_OF_BOUNDS, "User_ID"),
    ],
)
def test_what_is_wrong_is_named(changed, code, field):
    why = refusal(encoded(**changed))
    assert (why.code, why.field) == (code, field)


def test_a_whole_number_may_be_written_either_way():
    assert CONTRACT.predict(encoded(Age=68.0)).columns["Age"] == CONTRACT.predict(encoded(Age=68)).columns["Age"]


def test_a_missing_field_is_named():
    why = refusal(json.dumps({name: value for name, value in ROW.items() if name != "Age"}).encode())
    assert (why.code, why.field) == (Code.MISSING_FIELD, "Age")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        encoded().replace(b"68", b"NaN"),
        encoded().replace(b"68", b"-Infinity"),
        encoded().replace(b'"male"', b'"\xff"'),
        encoded()[:-1] + b', "User_ID": "\\ud800"}',
        encoded() + b"{}",
        b"\xef\xbb\xbf" + encoded(),
    ],
)
def test_what_is_not_json_is_refused_whole(body):
    assert refusal(body).code is Code.BAD_JSON
    assert refusal(body, CONTRACT.batch).code is Code.BAD_JSON
    assert refusal(body, CONTRACT.labels).code is Code.BAD_JSON


def test_a_number_beyond_every_float_is_out_of_bounds():
    assert refusal(encoded().replace(b"68", b"1e400")).code is Code.OUT_OF_BOUNDS


@pytest.mark.parametrize("again", [b'"Age": 20', b'"\\u0041ge": 20', b'"Gender": "male"'])
def test_a_field_given_twice_is_refused(again):
    assert refusal(b"{" + again + b", " + encoded()[1:]).code is Code.DUPLICATE_FIELD


TOLD = {"User_ID": "5", "prediction_id": "mine", "event_time": "2026-01-01T00:00:00Z"}


@settings(max_examples=200)
@given(
    st.sets(st.sampled_from([*TOLD])),
    st.sampled_from([*ROW, *TOLD]),
    st.sampled_from(["null", "20", '"male"', '"2026-01-01T00:00:00Z"']),
    st.booleans(),
)
def test_whatever_is_given_twice_and_as_whatever_is_refused(told, name, value, first):
    sound = encoded(**{each: TOLD[each] for each in told | ({name} & set(TOLD))})[1:-1]
    again = f'"{name}": {value}'.encode()
    body = b"{" + b", ".join([again, sound] if first else [sound, again]) + b"}"
    refusal(body)
    assert CONTRACT.batch(b'{"rows": [' + body + b"]}").refused


def test_a_sound_body_is_not_looked_at_twice(monkeypatch):
    monkeypatch.setattr("pipelines.serving.contract._said_once", lambda _: pytest.fail("looked at twice"))
    for told in ({}, TOLD, {"User_ID": 5}, {"User_ID": 5.0}, {"prediction_id": "null"}):
        CONTRACT.predict(encoded(**told))
        assert len(CONTRACT.batch(json.dumps({"rows": [ROW | told] * 3}).encode()).places) == 3


def test_a_value_that_looks_like_a_name_is_no_duplicate():
    assert CONTRACT.predict(encoded(prediction_id="Age", User_ID='"Age"')).client_ids == ["Age"]


def test_a_bad_row_of_a_batch_fails_alone():
    twice = encoded()[:-1] + b', "Age": 20}'
    rows = [
        encoded(),
        b"5",
        encoded(Age=1),
        b"{}",
        twice,
        encoded(event_time="0001-01-01T00:00:00Z"),
        encoded(),
    ]
    batch = CONTRACT.batch(b'{"rows": [' + b",".join(rows) + b"]}")
    assert batch.places == [0, 6]
    assert [(why.row, why.code) for why in batch.refused] == [
        (1, Code.WRONG_TYPE),
        (2, Code.OUT_OF_BOUNDS),
        (3, Code.MISSING_FIELD),
        (4, Code.DUPLICATE_FIELD),
        (5, Code.BAD_TIME),
    ]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", Code.MISSING_FIELD),
        (b'{"rows": {}}', Code.WRONG_TYPE),
        (b'{"rows": [], "rows": []}', Code.DUPLICATE_FIELD),
        (b'{"rows": [], "more": 1}', Code.UNKNOWN_FIELD),
        (b'{"rows": [' + b",".join([encoded()] * 251) + b"]}", Code.BATCH_TOO_LARGE),
        (b'{"rows": [' + b",".join([b"5"] * 251) + b"]}", Code.BATCH_TOO_LARGE),
    ],
)
def test_a_batch_without_sound_rows_is_refused_whole(body, code):
    assert refusal(body, CONTRACT.batch).code is code


def test_labels_come_one_by_one_in_a_list_or_wrapped():
    one = {"prediction_id": "p", "actual": 3, "observed_at": "2026-01-01T00:00:00Z"}
    for body in (one, [one], {"labels": [one]}):
        (label,), refused = CONTRACT.labels(json.dumps(body).encode())
        assert (label.prediction_id, label.actual, label.observed_at) == ("p", 3.0, 1767225600000000)
        assert not refused


def test_a_bad_label_is_named_and_the_others_are_kept():
    labels, refused = CONTRACT.labels(
        b'[{"User_ID": 5, "actual": 1}, {"actual": 1}, {"User_ID": 5, "actual": "x"}]'
    )
    assert [label.key for label in labels] == ["5"]
    assert [(why.row, why.code) for why in refused] == [(1, Code.MISSING_FIELD), (2, Code.WRONG_TYPE)]


def test_an_optional_field_may_be_absent_or_null():
    inputs = (*USE_CASE.inputs, Field(name="Pulse at rest", type="number", optional=True, example=60))
    contract = Contract(USE_CASE.model_copy(update={"inputs": inputs}))
    for row in (ROW, ROW | {"Pulse at rest": None}):
        assert contract.predict(json.dumps(row).encode()).cells[6][0] is None
    assert contract.predict(json.dumps(ROW | {"Pulse at rest": 61}).encode()).columns["Pulse at rest"] == [61.0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*ROW, "rows", "labels", "x"]), inner),
    max_leaves=20,
)


@settings(max_examples=300)
@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode())))
def test_no_body_gets_anything_but_an_answer_or_a_typed_refusal(body):
    for decode in (CONTRACT.predict, CONTRACT.batch, CONTRACT.labels):
        try:
            decode(body)
        except Refused as why:
            assert why.code.status in {400, 413, 422}
