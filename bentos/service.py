"""One BentoML service for every use case: the release and its stamp lie beside this file.

A place serves `app` by `pipelines.serving.run`: the hot path outside, the service behind it. Under `bentoml
serve` the hot path is the service's middleware, so the same contract is answered, but nobody keeps a log;
the code is then read from the wheels beside this file, whatever is installed on that machine.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if not os.environ.get("TOUCHLINE_PLACE_CODE"):
    sys.path[:0] = [str(wheel) for wheel in sorted((HERE / "wheels").glob("*.whl"))]

import bentoml
import msgspec

import pipelines
from pipelines.errors import CannotStart
from pipelines.serving import place, schema, start
from pipelines.serving.hot import Hot, Route, asked


def _from_the_bento(code: str | None) -> None:
    """A place imports nothing from a working tree: only what was unpacked from its bento."""
    origin = Path(pipelines.__file__).resolve()
    if code and not origin.is_relative_to(Path(code).resolve()):
        raise CannotStart(f"pipelines comes from {origin}, not from the bento's own code in {code}")


_from_the_bento(os.environ.get(place.CODE))
_spool = os.environ.get(place.SPOOL)
ANSWERS = start.answers(HERE, os.environ.get(place.NAME, "alone"), Path(_spool) if _spool else None)
BODIES = schema.bodies(ANSWERS.use_case, ANSWERS.output_names)
_LEAN: dict[str, Any] = {
    "workers": 1,
    "logging": {"access": {"enabled": False}},
    "tracing": {"excluded_urls": ".*"},
    "traffic": {"timeout": 60},
}


class Face:
    """The typed face of the endpoint, for BentoML's own tools; over HTTP the hot path answers before it."""

    @bentoml.api(route="/predict", input_spec=BODIES.row, output_spec=BODIES.prediction)  # type: ignore[untyped-decorator]
    def predict(self, **row: Any) -> Any:
        """Answer one row."""
        return _told(ANSWERS.predict, row)

    @bentoml.api(route="/predict/batch", input_spec=BODIES.rows, output_spec=BODIES.predictions)  # type: ignore[untyped-decorator]
    def predict_batch(self, **rows: Any) -> Any:
        """Answer rows; a bad one fails alone."""
        return _told(ANSWERS.batch, rows)

    @bentoml.api(route="/labels", input_spec=BODIES.labels, output_spec=schema.Accepted)  # type: ignore[untyped-decorator]
    def labels(self, **labels: Any) -> Any:
        """Say what really happened."""
        return _told(ANSWERS.labels, labels)


def _told(answer: Route, body: dict[str, Any]) -> Any:
    sent = msgspec.json.encode(body, enc_hook=lambda model: model.model_dump(exclude_none=True))
    return msgspec.json.decode(answer(sent, asked()).body)


service: Any = bentoml.service(name=ANSWERS.use_case.name, **_LEAN)(Face)
app = Hot(service.to_asgi(), ANSWERS)
service.add_asgi_middleware(Hot, answers=ANSWERS)
gc.freeze()  # what is loaded now stays for good: no collection looks through it again
gc.enable()  # a place begins without: looking through what only grows is an eighth of its start
