"""The reference: what a careful person writes in an hour, with nothing around it."""

import os
from typing import Any

import numpy as np
import orjson
import xgboost
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

NUMBERS = ("Age", "Height", "Weight", "Duration", "Heart_Rate", "Body_Temp")
BOOSTER = xgboost.Booster()
BOOSTER.load_model(os.environ["BOOSTER"])
BOOSTER.set_param({"nthread": 1})


def features(row: dict[str, Any]) -> list[float]:
    values = [row[name] for name in NUMBERS]
    return [*values, row["Gender"] == "male", row["Duration"] * row["Heart_Rate"]]


async def predict(request: Request) -> Response:
    row = orjson.loads(await request.body())
    answer = BOOSTER.inplace_predict(np.array([features(row)], np.float32))
    return Response(orjson.dumps({"calories": float(answer[0])}), media_type="application/json")


async def predict_batch(request: Request) -> Response:
    rows = orjson.loads(await request.body())["rows"]
    answers = BOOSTER.inplace_predict(np.array([features(row) for row in rows], np.float32))
    return Response(orjson.dumps({"calories": answers.tolist()}), media_type="application/json")


def ready(_: Request) -> Response:
    return Response(b"{}", media_type="application/json")


app = Starlette(
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/predict/batch", predict_batch, methods=["POST"]),
        Route("/readyz", ready),
    ]
)
