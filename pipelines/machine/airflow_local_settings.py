"""Copied into AIRFLOW_HOME/config, where Airflow imports it: heavy libraries once, before tasks are forked.

Only in the scheduler, whose tasks are forks of it, and only third-party libraries: project code would stay
stale until a restart. Imports and nothing else: a thread or a use of OpenMP would not survive the fork.
"""

import importlib
import sys

HEAVY = (
    "polars",
    "pyarrow.dataset",
    "deltalake",
    "pandas",
    "matplotlib",
    "sklearn.ensemble",
    "xgboost",
    "mlflow.xgboost",
    "great_expectations",
    "bentoml",
    "onnxruntime",
    "onnxmltools",
    "psycopg",
)

if sys.argv[1:2] == ["scheduler"]:
    for name in HEAVY:
        importlib.import_module(name)
