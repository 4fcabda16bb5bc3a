"""The reference: what a careful person writes in an hour, with nothing around it."""

import os

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


async def predict(request: Request) -> Response:
    row = orjson.loads(await request.body())
    values = [row[name] for name in NUMBERS]
    values += [row["Gender"] == "male", row["Duration"] * row["Heart_Rate"]]
    answer = BOOSTER.inplace_predict(np.array([values], np.float32))
    return Response(orjson.dumps({"calories": float(answer[0])}), media_type="application/json")


def ready(_: Request) -> Response:
    return Response(b"{}", media_type="application/json")


app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])
