"""FastAPI as in guides: a typed row, a frame of one line, the estimator."""

import os

import pandas as pd
import xgboost
from fastapi import FastAPI
from pydantic import BaseModel

model = xgboost.XGBRegressor(n_jobs=1)
model.load_model(os.environ["BOOSTER"])
app = FastAPI()


class Row(BaseModel):
    Gender: str
    Age: float
    Height: float
    Weight: float
    Duration: float
    Heart_Rate: float
    Body_Temp: float


@app.get("/readyz")
def ready() -> dict[str, str]:
    return {}


@app.post("/predict")
def predict(row: Row) -> dict[str, float]:
    frame = pd.DataFrame([row.model_dump()])
    male, work = frame["Gender"] == "male", frame["Duration"] * frame["Heart_Rate"]
    features = frame.drop(columns="Gender").assign(male=male.astype(float), work=work)
    return {"calories": float(model.predict(features.to_numpy())[0])}
