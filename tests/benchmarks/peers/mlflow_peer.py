"""Saves the booster as an MLflow model; `mlflow models serve` does the rest: `python mlflow_peer.py FOLDER`."""

import os
import sys

import mlflow
import numpy as np
import xgboost
from mlflow.models import infer_signature

model = xgboost.Booster(model_file=os.environ["BOOSTER"])
model.set_param({"nthread": 1})
rows = np.zeros((1, 8), np.float32)
mlflow.xgboost.save_model(model, sys.argv[1], signature=infer_signature(rows, np.zeros(1, np.float32)))
