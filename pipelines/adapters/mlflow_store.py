"""MLflow 3: runs, versions, aliases. No pickle: a model is a folder of parts with a loader module."""

import json
import logging
import shutil
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow import environment_variables as variables
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from pipelines.errors import BadRelease, ServiceAway
from pipelines.spec import Field, UseCase
from pipelines.tools import RunRecord

KEY = "touchline.training_key"
LOADER = "pipelines.adapters.pyfunc"
MODEL = "model"
TYPES = {"number": DataType.double, "integer": DataType.long, "text": DataType.string}


class MlflowStore:
    """`Tracker` and `Registry` of one tracking server; models are kept on local disk once they were read."""

    def __init__(self, url: str, cache: Path) -> None:
        self.url, self.cache = url, cache
        # a server that is away must be known soon: the default is minutes of silent repeats
        variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(2)
        variables.MLFLOW_HTTP_REQUEST_TIMEOUT.set(30)
        variables.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
        variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # standard output is the command's own
        self.client = MlflowClient(tracking_uri=url, registry_uri=url)

    # --- tracker ---------------------------------------------------------------------------------------

    def find(self, use_case: str, training_key: str) -> str | None:
        """The finished run of that key; one that a killed training left is no run."""
        with _asked():
            experiment = self.client.get_experiment_by_name(use_case)
            if experiment is None:
                return None
            wanted = f"tags.`{KEY}` = '{training_key}' AND attributes.status = 'FINISHED'"
            runs = self.client.search_runs([experiment.experiment_id], wanted, max_results=1)
        return runs[0].info.run_id if runs else None

    def log(self, use_case: UseCase, run: RunRecord) -> str:
        """Write the run; its state FINISHED comes last and says that it is whole."""
        with _asked():
            self._end_leftovers(use_case.name, run.training_key)
            mlflow.set_tracking_uri(self.url)
            mlflow.set_experiment(use_case.name)
            tags = {KEY: run.training_key, **run.facts}
            with _quiet(), mlflow.start_run(run_name=f"snapshot-{run.data}", tags=tags) as started:
                mlflow.log_params(run.parameters)
                mlflow.log_metrics(run.metrics)
                mlflow.log_input(_dataset(run), context="training")
                for shown in ("plots", "tables"):
                    mlflow.log_artifacts(str(run.folder / shown), shown)
                mlflow.pyfunc.log_model(
                    name=MODEL,
                    loader_module=LOADER,
                    data_path=str(run.folder / "release"),
                    code_paths=[str(path) for path in sorted((run.folder / "code").iterdir())],
                    signature=_signature(use_case, run.folder / "release"),
                    pip_requirements=_requirements(),
                )
        return str(started.info.run_id)

    def _end_leftovers(self, use_case: str, training_key: str) -> None:
        """Runs that a killed training left open are not left to be wondered about."""
        experiment = self.client.get_experiment_by_name(use_case)
        if experiment is None:
            return
        open_ones = f"tags.`{KEY}` = '{training_key}' AND attributes.status = 'RUNNING'"
        for left in self.client.search_runs([experiment.experiment_id], open_ones):
            self.client.set_terminated(left.info.run_id, "KILLED")

    def folder(self, run_id: str) -> Path:
        """Download once; the folder gets its name when it is whole."""
        kept = self.cache / run_id
        if kept.is_dir():
            return kept
        self.cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.cache, prefix=".partial-") as partial, _asked():
            model = self._model_of(self.client.get_run(run_id))
            got = Path(mlflow.artifacts.download_artifacts(model, dst_path=partial, tracking_uri=self.url))
            made = Path(partial) / "made"
            shutil.move(got / "data" / "release" if (got / "data").exists() else got / "release", made / "release")
            shutil.move(got / "code", made / "code")
            try:
                made.rename(kept)
            except OSError:
                if not kept.is_dir():
                    raise
        return kept

    def _model_of(self, run: Run) -> str:
        models = run.outputs.model_outputs if run.outputs else []
        if not models:
            raise BadRelease(f"MLflow run {run.info.run_id} holds no model")
        return f"models:/{models[0].model_id}"

    def note(self, run_id: str, facts: Mapping[str, str]) -> None:
        """Tags of the run, and its description for whoever opens the page."""
        with _asked():
            for name, value in facts.items():
                self.client.set_tag(run_id, name, value)
            tags = self.client.get_run(run_id).data.tags
            told = [f"- **{name.removeprefix('touchline.')}**: {tags[name]}" for name in SHOWN if name in tags]
            self.client.set_tag(run_id, "mlflow.note.content", "\n".join(told))

    # --- registry --------------------------------------------------------------------------------------

    def keep(self, run_id: str | None, file: Path, folder: str) -> None:
        """Put a file beside a run's others; nothing where there is no run."""
        if run_id is not None:
            with _asked():
                self.client.log_artifact(run_id, str(file), folder)

    def register(self, use_case: UseCase, run_id: str, facts: Mapping[str, str]) -> str:
        """The version of that run; a second call finds it."""
        with _asked():
            self._registered_model(use_case)
            for version in self.client.search_model_versions(f"name = '{use_case.name}'"):
                if version.run_id == run_id:
                    return str(version.version)
            source = self._model_of(self.client.get_run(run_id))
            made = self.client.create_model_version(
                use_case.name, source, run_id, tags=dict(facts), model_id=source.removeprefix("models:/")
            )
            return str(made.version)

    def _registered_model(self, use_case: UseCase) -> None:
        try:
            self.client.create_registered_model(use_case.name, description=use_case.description)
        except MlflowException as known:
            if known.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def aliases(self, use_case: str) -> dict[str, str]:
        """Version by alias; none where the use case has no version yet."""
        with _asked():
            try:
                found = self.client.get_registered_model(use_case).aliases
            except MlflowException as missing:
                if missing.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
        return {name: str(version) for name, version in found.items()}

    def point(self, use_case: str, alias: str, version: str | None) -> None:
        """Move the alias, or take it away."""
        with _asked():
            try:
                if version is None:
                    self.client.delete_registered_model_alias(use_case, alias)
                else:
                    self.client.set_registered_model_alias(use_case, alias, version)
            except MlflowException as missing:
                if missing.error_code not in MISSING:
                    raise
                raise BadRelease(f"{use_case} has no version {version}") from missing

    def run_of(self, use_case: str, version: str) -> str | None:
        """The run that a version was made from; None for one without. BadRelease: no such version."""
        with _asked():
            try:
                return str(self.client.get_model_version(use_case, version).run_id or "") or None
            except MlflowException as missing:
                if missing.error_code not in MISSING:
                    raise
                raise BadRelease(f"{use_case} has no version {version}") from missing


MISSING = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""What MLflow says of a version that is not there, or that was deleted."""
SHOWN = (
    "touchline.reason",
    "touchline.gate",
    "touchline.gate_reason",
    "touchline.check",
    "touchline.bento",
    "touchline.rows",
)


@contextmanager
def _asked() -> Generator[None]:
    """MLflow away is a passing error; all else that it refuses is a fault of ours and is not hidden."""
    try:
        yield
    except MlflowException as failed:
        away = failed.error_code in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"}
        if away or "Max retries exceeded" in str(failed):
            raise ServiceAway(f"MLflow does not answer: {str(failed)[:300]}") from failed
        raise


def _dataset(run: RunRecord) -> MetaDataset:
    source = DeltaDatasetSource(path=run.data_uri)
    return MetaDataset(source, name=f"snapshot-{run.data}", digest=run.data[:8])


@contextmanager
def _quiet() -> Generator[None]:
    """Without the advice that a person cannot follow: signature and requirements are given."""
    chatty = logging.getLogger("mlflow")
    before = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        chatty.setLevel(before)


def _signature(use_case: UseCase, release: Path) -> ModelSignature:
    """Raw inputs, as a request names them, and the outputs that the golden rows have."""
    inputs = Schema([_column(field) for field in use_case.inputs])
    golden = json.loads((release / "golden.json").read_bytes())
    outputs = Schema([ColSpec(DataType.double, name) for name in golden["outputs"][0]])
    return ModelSignature(inputs=inputs, outputs=outputs)


def _column(field: Field) -> ColSpec:
    return ColSpec(TYPES[field.type], field.name, required=not field.optional)


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in ("numpy", "pandas", "pydantic", "mlflow")] + [
        f"xgboost=={version('xgboost-cpu')}"
    ]
