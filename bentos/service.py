"""One BentoML service for every use case, over what `touchline_app` beside this file has opened.

A place serves `touchline_app:app` by `pipelines.serving.run`: the hot path outside, this service behind it, loaded
when it is asked for. Under `bentoml serve` the hot path is the service's middleware, so the same contract is
answered, but nobody keeps a log; the code is then read from the wheels beside this file, whatever is installed on
that machine.
"""

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if not os.environ.get("TOUCHLINE_PLACE_CODE"):
    sys.path[:0] = [str(wheel) for wheel in sorted((HERE / "wheels").glob("*.whl"))]

import bentoml
import msgspec
from pydantic import BaseModel
from touchline_app import ANSWERS  # type: ignore[import-not-found]

from pipelines.serving import schema
from pipelines.serving.hot import Hot, Route, asked


class Predictions(BaseModel):
    """Answers and typed errors; BentoML's client makes bodies anew from their schema, and empties unions."""

    predictions: list[dict[str, Any]]


class Labels(BaseModel):
    """Any of the ways to say what a label is of."""

    labels: list[dict[str, Any]]


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

    @bentoml.api(route="/predict/batch", input_spec=BODIES.rows, output_spec=Predictions)  # type: ignore[untyped-decorator]
    def predict_batch(self, **rows: Any) -> Any:
        """Answer rows; a bad one fails alone."""
        return _told(ANSWERS.batch, rows)

    @bentoml.api(route="/labels", input_spec=Labels, output_spec=schema.Accepted)  # type: ignore[untyped-decorator]
    def labels(self, **labels: Any) -> Any:
        """Say what really happened."""
        return _told(ANSWERS.labels, labels)


def _told(answer: Route, body: dict[str, Any]) -> Any:
    sent = msgspec.json.encode(body, enc_hook=lambda model: model.model_dump(exclude_none=True))
    return msgspec.json.decode(answer(sent, asked()).body)


service: Any = bentoml.service(name=ANSWERS.use_case.name, **_LEAN)(Face)
application: Any = service.to_asgi()
service.add_asgi_middleware(Hot, answers=ANSWERS)
