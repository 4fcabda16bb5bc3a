"""The hot path: proxy → this → typed decode → features → model parts → spool → answer.

Plain ASGI, because every layer above it costs more than the model. Who can be asked is ready: golden rows were
answered before. `/schema.json`, for BentoML's clients, goes on to the BentoML service behind it, and so does
`/metrics`, to which it adds its own.
"""

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from math import isfinite
from typing import Any, NamedTuple

import msgspec

from pipelines.predictions.spool import Labels, Predictions, Spool, SpoolFull
from pipelines.records import Stamp
from pipelines.serving import schema
from pipelines.serving.contract import Code, Label, Refused, Rows
from pipelines.serving.meter import Meter
from pipelines.serving.predictor import Predictor
from pipelines.spec import Field, UseCase

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROBES = frozenset({"/livez", "/readyz", "/healthz"})
METRICS = "/metrics"
SCHEMA = "/schema.json"
METHODS = dict.fromkeys((*PROBES, METRICS, SCHEMA), "GET") | {
    "/predict": "POST",
    "/predict/batch": "POST",
    "/labels": "POST",
    "/model": "GET",
    "/docs.json": "GET",
}
READING = frozenset({"GET", "HEAD"})
REQUEST_ID = b"x-request-id"
ROLE = b"x-touchline-role"
RETRY_AFTER_SECONDS = 2
_SOUND_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Identity(NamedTuple):
    """Who answers."""

    place: str
    stamp: Stamp
    bento_digest: str


class Asked(NamedTuple):
    """When and as what a request arrived; the only place where time enters."""

    request_id: str
    at: int
    """Microseconds since 1970, UTC."""
    started: int
    """Nanoseconds of a clock that never goes back."""
    role: str | None


def asked(request_id: bytes = b"", role: bytes | None = None) -> Asked:
    """Stamp a request that has arrived as a whole; one without a sound id gets a new one."""
    name = request_id.decode() if _SOUND_ID.fullmatch(request_id) else _new_id()
    told = role.decode("latin-1") if role else None
    return Asked(name, time.time_ns() // 1000, time.perf_counter_ns(), told)


def _new_id() -> str:
    """As the proxy gives them: the day (days since 1970), then at random."""
    return f"{time.time_ns() // 86_400_000_000_000}-{uuid.uuid4()}"


class Reply(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: bytes


class Response(NamedTuple):
    """An answer with its headers."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


WELL = Response(200, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"1")], b"\n")
"""To a probe, as BentoML says it."""


class Answers:
    """What the endpoint says to each body; knows no ASGI."""

    def __init__(
        self,
        use_case: UseCase,
        predictor: Predictor,
        spool: Spool,
        who: Identity,
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        """Everything is loaded and checked already; the evidence is only shown."""
        self.use_case = use_case
        self._evidence = dict(evidence or {})
        self.version = who.stamp.model_version
        self.output_names = predictor.output_names
        self._predictor = predictor
        self._contract = predictor.contract
        self._spool = spool
        self._who = who
        self._encode = msgspec.json.Encoder().encode
        self.meter = Meter(use_case.name, self.version)

    def predict(self, body: bytes, asked: Asked) -> Reply:
        """Answer one row."""
        answer = self._answer(self._contract.predict(body), [0], asked)[0]
        if isinstance(answer, Refused):
            raise answer
        return Reply(200, self._encode(answer))

    def batch(self, body: bytes, asked: Asked) -> Reply:
        """Answer every good row of a batch; a bad one fails alone."""
        rows, places, refused = self._contract.batch(body)
        told: dict[int, Any] = {why.row: why for why in refused if why.row is not None}
        if places:
            told |= self._answer(rows, places, asked)
        each = (told[place] for place in sorted(told))
        predictions = [one.body() if isinstance(one, Refused) else one for one in each]
        return Reply(200, self._encode({"predictions": predictions}))

    def labels(self, body: bytes, asked: Asked) -> Reply:
        """Keep labels; a bad one is named and the others are kept."""
        labels, refused = self._contract.labels(body)
        if refused and not labels:
            raise refused[0]
        if labels:
            self._spool.append(_label_record(labels, asked.at))
        told = [why.body()["error"] for why in refused]
        return Reply(202, self._encode({"accepted": len(labels), "errors": told}))

    def model(self, body: bytes, asked: Asked) -> Reply:
        """Describe what answers here and what it takes."""
        manifest, stamp = self._predictor.manifest, self._who.stamp
        about = {
            "use_case": self.use_case.name,
            "version": self.version,
            "trained_at": manifest.trained_at,
            "metrics": manifest.metrics,
            "features": [_about(field, manifest.ranges) for field in self.use_case.inputs],
            "entity": self.use_case.entity,
            "outputs": self._predictor.output_names,
            "target": {"name": self.use_case.target, "unit": self.use_case.target_unit},
            "snapshot": manifest.snapshot,
            "bento": stamp.bento_tag,
            "digest": self._who.bento_digest,
            "place": self._who.place,
            "role": asked.role,
            "logged": self._spool.logged,
            "evidence": self._evidence,
        }
        return Reply(200, self._encode(about))

    def _answer(self, rows: Rows, places: list[int], asked: Asked) -> dict[int, dict[str, Any] | Refused]:
        """Answers by their place in the request; recorded before they are returned."""
        outputs = {name: values.tolist() for name, values in self._predictor.answer(rows.columns).items()}
        if not all(all(map(isfinite, values)) for values in outputs.values()):
            return self._answer_finite(rows, places, outputs, asked)
        self._keep(rows, places, outputs, asked)
        warnings = self._predictor.warnings(rows)
        return {
            place: {
                "prediction_id": f"{asked.request_id}-{place}",
                "output": {name: values[row] for name, values in outputs.items()},
                "model_version": self.version,
                "warnings": warnings[row],
            }
            for row, place in enumerate(places)
        }

    def _answer_finite(
        self,
        rows: Rows,
        places: list[int],
        outputs: dict[str, list[float]],
        asked: Asked,
    ) -> dict[int, dict[str, Any] | Refused]:
        """The rows that have an answer, and a typed error for the others."""
        good = [
            row for row, values in enumerate(zip(*outputs.values(), strict=True)) if all(map(isfinite, values))
        ]
        told: dict[int, Any] = {
            place: Refused(Code.NO_ANSWER, Code.NO_ANSWER.meaning, row=place) for place in places
        }
        if good:
            kept = [places[row] for row in good]
            told |= self._answer(rows.only(good), kept, asked)
        return told

    def _keep(
        self,
        rows: Rows,
        places: list[int],
        outputs: dict[str, list[float]],
        asked: Asked,
    ) -> None:
        record = Predictions(
            asked.request_id,
            asked.at,
            (time.perf_counter_ns() - asked.started) // 1000,
            places,
            rows.client_ids,
            rows.keys,
            rows.event_times,
            rows.cells,
            [outputs[name] for name in self._predictor.output_names],
            role=asked.role,
        )
        self._spool.append(record)
        self.meter.rows += len(places)


Route = Callable[[bytes, Asked], Reply]


class Hot:
    """ASGI: answers the hot routes, refuses unknown ones, passes the rest on."""

    def __init__(self, app: App, answers: Answers) -> None:
        """`app` is what stands behind: it begins and ends with the server."""
        self._app = app
        self._limit = answers.use_case.serving.body_limit
        self._meter = answers.meter
        self._version = answers.version.encode()
        described = schema.openapi(answers.use_case, answers.output_names, answers.version)
        self._docs = Reply(200, msgspec.json.encode(described))
        self._routes: dict[str, Route] = {
            "/predict": answers.predict,
            "/predict/batch": answers.batch,
            "/labels": answers.labels,
            "/model": answers.model,
            "/docs.json": lambda *_: self._docs,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or (path == SCHEMA and scope["method"] in READING):
            return await self._app(scope, receive, send)
        if path == METRICS and scope["method"] in READING:
            return await self._app(scope, receive, self._metered(send))
        if path in PROBES and scope["method"] in READING:
            return await sent(WELL, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            body = await self._body_for(path, scope["method"], headers, receive)
            if body is None:
                return
            response = self.respond(path, headers, body)
        except Refused as why:
            self._meter.count(path if path in self._routes else "other", why.code.status)
            response = self._response(_refusal(why), asked(headers.get(REQUEST_ID, b"")).request_id, path)
        await sent(response, send)

    def takes(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether `respond` may be given a request whose body has come whole: a POST route, its length said."""
        length = headers.get(b"content-length", b"")
        return (
            METHODS.get(path) == "POST"
            and length.isdigit()
            and int(length) <= self._limit
            and headers.get(b"content-type") == b"application/json"
            and b"content-encoding" not in headers
        )

    def respond(self, path: str, headers: Mapping[bytes, bytes], body: bytes) -> Response:
        """Answer a request that has come whole, to a route and under a method that are known to be right."""
        when = asked(headers.get(REQUEST_ID, b""), headers.get(ROLE))
        try:
            reply = self._routes[path](body, when)
        except Refused as why:
            reply = _refusal(why)
        except SpoolFull as why:
            reply = _refusal(Refused(Code.LOG_FULL, f"{Code.LOG_FULL.meaning} ({why})"))
        self._meter.observe(path, time.perf_counter_ns() - when.started)
        self._meter.count(path, reply.status)
        return self._response(reply, when.request_id, path)

    def failed(self, path: str, headers: Mapping[bytes, bytes]) -> Response:
        """The model's own code broke: a typed error, and the count of it."""
        self._meter.count(path, Code.INTERNAL.status)
        request_id = asked(headers.get(REQUEST_ID, b"")).request_id
        return self._response(_refusal(Refused(Code.INTERNAL, Code.INTERNAL.meaning)), request_id, path)

    async def _body_for(
        self, path: str, method: str, headers: dict[bytes, bytes], receive: Receive
    ) -> bytes | None:
        """The body of a request that this path takes, or None when the client went away."""
        expected = METHODS.get(path)
        if expected is None:
            raise Refused(Code.NOT_FOUND, f"Nothing answers at {path[:100]}.")
        if method != expected:
            raise Refused(Code.METHOD_NOT_ALLOWED, f"{path} takes {expected}, not {method}.")
        return b"" if method == "GET" else await self._body(headers, receive)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, or None when the client went away."""
        _check_headers(headers, self._limit)
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self._limit:
                raise _too_large(self._limit)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _metered(self, send: Send) -> Send:
        """Put this place's own numbers before what the service behind tells of itself."""
        own = self._meter.text()

        async def both(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name != b"content-length"]
                message = {**message, "headers": kept}
                await send(message)
                await send({"type": "http.response.body", "body": own, "more_body": True})
            else:
                await send(message)

        return both

    def _response(self, reply: Reply, request_id: str, path: str) -> Response:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-model-version", self._version),
            (REQUEST_ID, request_id.encode()),
        ]
        if reply.status == Code.LOG_FULL.status:
            headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        if reply.status == Code.METHOD_NOT_ALLOWED.status:
            headers.append((b"allow", METHODS[path].encode()))
        return Response(reply.status, headers, reply.body)


async def sent(response: Response, send: Send) -> None:
    """Say a whole answer."""
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body})


def _check_headers(headers: dict[bytes, bytes], limit: int) -> None:
    kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if kind != b"application/json" or headers.get(b"content-encoding", b"identity") != b"identity":
        raise Refused(Code.WRONG_CONTENT_TYPE, Code.WRONG_CONTENT_TYPE.meaning)
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Refused:
    return Refused(Code.BODY_TOO_LARGE, f"The body has more than {limit} bytes; send several batches.")


def _refusal(why: Refused) -> Reply:
    return Reply(why.code.status, msgspec.json.encode(why.body()))


def _label_record(labels: list[Label], now: int) -> Labels:
    rows = [
        (
            one.prediction_id,
            one.key,
            one.event_time,
            one.actual,
            now if one.observed_at is None else one.observed_at,
        )
        for one in labels
    ]
    return Labels(now, "api", rows)


def _about(field: Field, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """One input, as a client needs to know it."""
    about: dict[str, Any] = {
        "name": field.name,
        "type": field.type,
        "unit": field.unit,
        "range": ranges.get(field.name),
        "minimum": field.minimum,
        "maximum": field.maximum,
        "choices": field.choices,
        "optional": field.optional,
        "example": field.example,
    }
    return about
