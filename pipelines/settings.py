"""Every setting of the platform, read once, here and nowhere else.

Order: environment (`TOUCHLINE_…`), then `settings.json` of the home, then the defaults below.
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pipelines.errors import BadSettings

HOME_VARIABLE = "TOUCHLINE_HOME"
PLACES = 16
"""How many places one home may run."""
REMEMBERED = {
    "base_port", "use_cases", "use_case", "data", "replicas", "retention_days", "simulation_seed", "dags",
}  # fmt: skip
"""Settings that the home keeps, because later commands must agree on them."""
DATABASES = ("database_url", "airflow_database_url", "mlflow_database_url")
SECRET = {"notify", *DATABASES}
"""Settings that the home keeps among its secrets; they pass through no environment of a service."""


class Ports(NamedTuple):
    """One block of ports from one base; every one binds to loopback."""

    proxy: int
    airflow: int
    mlflow: int
    postgres: int
    places: tuple[int, ...]


class Home(NamedTuple):
    """Where the state of one installation lies."""

    root: Path

    @property
    def settings(self) -> Path:
        """Settings that `up` was given, kept for every later command."""
        return self.root / "settings.json"

    @property
    def version(self) -> Path:
        """The layout's version; a newer one is refused."""
        return self.root / "VERSION"

    @property
    def tables(self) -> Path:
        """Delta tables, one folder a use case, one a table."""
        return self.root / "tables"

    @property
    def landing(self) -> Path:
        """The bytes of every file that arrived, named by their digest."""
        return self.root / "landing"

    @property
    def docs(self) -> Path:
        """The rendered page of each validation, one folder a use case, one a table."""
        return self.root / "docs"

    @property
    def snapshots(self) -> Path:
        """Manifests of what was trained on."""
        return self.root / "snapshots"

    @property
    def models(self) -> Path:
        """Tracked models that were read from MLflow, by run; may be removed at any time."""
        return self.root / "models"

    @property
    def bentoml(self) -> Path:
        """BENTOML_HOME: the store of built bentos."""
        return self.root / "bentoml"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME."""
        return self.root / "airflow"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.root / "mlflow-artifacts"

    @property
    def places(self) -> Path:
        """The unpacked code of bentos that serve here."""
        return self.root / "places"

    @property
    def spool(self) -> Path:
        """Answered requests not yet in PostgreSQL; one folder a use case, one a place."""
        return self.root / "spool"

    @property
    def proxy(self) -> Path:
        """HAProxy's configuration, maps and control socket."""
        return self.root / "proxy"

    @property
    def services(self) -> Path:
        """supervisord's configuration, one file a service, and its control socket."""
        return self.root / "services"

    @property
    def logs(self) -> Path:
        """One log file a service, rotated."""
        return self.root / "logs"

    @property
    def backups(self) -> Path:
        """Dumps of the databases, one folder each time."""
        return self.root / "backups"

    @property
    def secrets(self) -> Path:
        """Generated secrets, mode 600, one file each."""
        return self.root / "secrets"

    @property
    def secret_settings(self) -> Path:
        """Settings that hold passwords or tokens, kept for every later command."""
        return self.secrets / "settings.json"

    def secret(self, name: str) -> str:
        """Read one generated secret; BadSettings when the home was never set up."""
        try:
            return (self.secrets / name).read_text().strip()
        except FileNotFoundError:
            raise BadSettings(
                f"{self.secrets / name}: no such secret; this home was not set up yet: run `touchline up`"
            ) from None


class Settings(BaseSettings):
    """What a person may set."""

    model_config = SettingsConfigDict(env_prefix="TOUCHLINE_", extra="forbid", frozen=True)

    home: Path = Field(Path.home() / ".touchline", description="Folder of all state of this installation")
    base_port: int = Field(7400, ge=1024, le=65000, description="First port of the block of 32 that it uses")
    use_cases: tuple[Path, ...] = Field(
        (), description="Folders with further use cases (JSON list), beside the shipped ones"
    )
    use_case: str = Field("calories", description="The use case that `up` runs")
    data: Path | None = Field(None, description="Folder of real files; without it rows are simulated")
    replicas: int = Field(2, ge=1, le=4, description="How many places serve the champion of a use case")
    dags: Path | None = Field(None, description="Folder of DAG files, when it is not the shipped one")
    database_url: SecretStr | None = Field(
        None, description="A PostgreSQL of your own for the platform (postgresql://…); kept as a secret"
    )
    airflow_database_url: SecretStr | None = Field(None, description="The same for Airflow; all three or none")
    mlflow_database_url: SecretStr | None = Field(None, description="The same for MLflow; all three or none")
    mlflow_url: str | None = Field(None, description="MLflow's address, when it is not this home's own")
    notify: tuple[SecretStr, ...] = Field(
        (),
        description="Who hears of failures (JSON list): webhooks, addresses of Apprise; kept as a secret",
    )
    retention_days: int | None = Field(
        None, ge=2, description="How many days of predictions and labels the log keeps; default: all"
    )
    simulation_seed: int = Field(7, ge=0, description="Seed of the simulated source")
    training_threads: int = Field(2, ge=1, description="Threads of one training run")
    training_memory_mb: int | None = Field(
        None,
        ge=256,
        description="MiB for one training run: with more rows it works from disk, where a use case can",
    )
    lock_wait_seconds: float = Field(
        300, gt=0, description="How long a step waits for another run of the same flow"
    )

    @field_validator("home", "data", "dags")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before the home's file; no dotenv, no secret files."""
        home = Path(
            init_settings().get("home") or os.environ.get(HOME_VARIABLE) or cls.model_fields["home"].default
        )
        at = Home(home.expanduser())
        kept = (
            JsonConfigSettingsSource(settings_cls, json_file=file) for file in (at.settings, at.secret_settings)
        )
        return init_settings, env_settings, *kept

    @model_validator(mode="after")
    def _all_databases_or_none(self) -> "Settings":
        given = [name for name in DATABASES if getattr(self, name) is not None]
        if given and len(given) < len(DATABASES):
            missing = ", ".join(f"TOUCHLINE_{name.upper()}" for name in DATABASES if name not in given)
            raise ValueError(f"a PostgreSQL of your own serves all three: {missing} is missing")
        return self

    @property
    def embedded(self) -> bool:
        """Whether this home runs its own PostgreSQL."""
        return self.database_url is None

    @cached_property
    def at(self) -> Home:
        """The home's folders."""
        return Home(self.home)

    @cached_property
    def ports(self) -> Ports:
        """The block of ports."""
        base = self.base_port
        places = tuple(range(base + 16, base + 16 + PLACES))
        return Ports(base, base + 1, base + 2, base + 3, places)

    @property
    def database(self) -> str:
        """URL of the platform's own database (libpq form); holds the password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        password = self.at.secret("postgres-touchline")
        return f"postgresql://touchline:{password}@127.0.0.1:{self.ports.postgres}/touchline"

    @property
    def mlflow(self) -> str:
        """MLflow's address."""
        return self.mlflow_url or f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def endpoint(self) -> str:
        """Where predictions are asked for; a use case's name follows."""
        return f"http://127.0.0.1:{self.ports.proxy}"


def load(**given: object) -> Settings:
    """Read the settings; BadSettings names each wrong one."""
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as wrong:
        raise BadSettings("; ".join(map(_told, wrong.errors()))) from None


def _told(error: Any) -> str:
    """The setting's name and what is wrong with it; what contradicts itself names the settings in its words."""
    name = ".".join(str(part) for part in error["loc"]).upper()
    return f"TOUCHLINE_{name}: {error['msg']}" if name else str(error["msg"]).removeprefix("Value error, ")


def variable(name: str) -> str:
    """A variable of the environment that a use case names; BadSettings when it is not set."""
    try:
        return os.environ[name]
    except KeyError:
        raise BadSettings(f"{name}: a use case reads it, and it is not set") from None


def bucket_endpoint() -> str | None:
    """Where S3 is, when it is not Amazon's: AWS_ENDPOINT_URL, as for every other tool."""
    return os.environ.get("AWS_ENDPOINT_URL")


def remember(settings: Settings) -> None:
    """Keep in the home what later commands must agree on."""
    kept = settings.model_dump(mode="json", include=REMEMBERED)
    settings.at.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = settings.at.settings.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    partial.replace(settings.at.settings)
