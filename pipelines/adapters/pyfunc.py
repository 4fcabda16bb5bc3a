"""MLflow's loader: `mlflow.pyfunc.load_model("models:/calories@champion").predict(raw_rows)`."""

import importlib
from pathlib import Path

import pandas as pd

from pipelines import rows
from pipelines.adapters.xgboost_parts import XGBoostModeller
from pipelines.serving.predictor import read_manifest
from pipelines.spec import UseCase


class RawRows:
    """A release that answers raw rows by the training library."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        use_case: UseCase = importlib.import_module(self.manifest.module).USE_CASE
        self.use_case = use_case

    def predict(self, given: pd.DataFrame) -> pd.DataFrame:
        """One output row for each raw row; the columns are the use case's inputs."""
        columns = {
            field.name: rows.column(
                field, given[field.name].astype(object).where(given[field.name].notna(), None).tolist()
            )
            for field in self.use_case.inputs
        }
        outputs = XGBoostModeller(1).answer(self.use_case, self.manifest, self.folder, columns)
        return pd.DataFrame(dict(outputs), index=given.index)


def _load_pyfunc(path: str) -> RawRows:
    return RawRows(Path(path))
