"""BentoML with its defaults: a service class, a typed call."""

import os

import bentoml
import numpy as np
import xgboost
from pydantic import BaseModel


class Row(BaseModel):
    Gender: str
    Age: float
    Height: float
    Weight: float
    Duration: float
    Heart_Rate: float
    Body_Temp: float


@bentoml.service
class Peer:
    def __init__(self) -> None:
        self.model = xgboost.Booster(model_file=os.environ["BOOSTER"])
        self.model.set_param({"nthread": 1})

    @bentoml.api
    def predict(self, row: Row) -> dict[str, float]:
        numbers = [row.Age, row.Height, row.Weight, row.Duration, row.Heart_Rate, row.Body_Temp]
        features = np.array([[*numbers, row.Gender == "male", row.Duration * row.Heart_Rate]], np.float32)
        return {"calories": float(self.model.inplace_predict(features)[0])}
