"""README, settings, command line and contract say the same; the rooms stay in order."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import catalog, cli
from pipelines.serving.contract import Code
from pipelines.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_readme_and_the_reverse():
    declared = {f"TOUCHLINE_{name.upper()}" for name in Settings.model_fields}
    told = set(re.findall(r"^\| `(TOUCHLINE_\w+)`", README, re.MULTILINE))
    assert told == declared


def test_every_setting_has_a_sentence_of_help():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_error_code_is_in_the_readme_with_its_status():
    told = set(re.findall(r"^\| `([a-z_]+)` \| (\d+) \| (.*) \|$", README, re.MULTILINE))
    assert told == {(code.word, str(code.status), code.meaning) for code in Code}


def test_every_file_that_the_readme_names_is_there():
    named = re.findall(r"`((?:pipelines|dags|bentos|tests|infra|expectations)/[\w./]*)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_command_that_the_readme_names_is_one():
    commands = set(re.findall(r"touchline (up|down|status|env|doctor|ingest|retrain|[\w-]+)", README)) - {"keeps"}
    known = set(cli.parser()._subparsers._group_actions[0].choices)
    assert commands & known >= {"up", "down", "status", "env", "ingest", "retrain"}
    assert commands <= known


@pytest.mark.parametrize("name", sorted(catalog.find()))
def test_a_use_case_has_its_name_in_every_room(name):
    use_case = catalog.load(name)
    suites = {file.stem for file in (ROOT / "expectations" / name).glob("*.json")}
    assert suites == {table.name for table in use_case.tables}


def test_mlflow_the_room_never_hides_mlflow_the_package():
    assert not (ROOT / "mlflow" / "__init__.py").exists()


def imported_by(statement, modules):
    """Which of the modules a fresh interpreter has loaded after the statement."""
    code = f"import sys; {statement}; print([m for m in {modules.split()} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.strip().splitlines()[-1]


HEAVY = "mlflow xgboost sklearn pandas great_expectations bentoml psycopg deltalake matplotlib"


def test_help_imports_nothing_heavy():
    statement = "from pipelines import cli; cli.parser().format_help()"
    assert imported_by(statement, f"{HEAVY} polars pyarrow onnxruntime airflow") == "[]"


def test_a_dag_file_is_parsed_without_training_libraries():
    assert imported_by("import dags.flows", HEAVY) == "[]"


def test_the_lock_names_no_index_and_hashes_everything():
    lock = (ROOT / "requirements.txt").read_text()
    assert "://" not in lock.replace("https://docs", "")
    pinned = re.findall(r"^[\w.-]+(?:\[.*\])?==\S+", lock, re.MULTILINE)
    assert len(pinned) > 100
    assert lock.count("--hash=") > len(pinned)


def test_every_supported_python_gets_the_same_versions():
    lock = (ROOT / "requirements.txt").read_text()
    elsewhere = "sys_platform|platform_machine|platform_system"  # a package may differ by machine, not by Python
    pinned = re.findall(rf"^([\w.-]+)(?:\[.*\])?==\S+(?!.*(?:{elsewhere}))", lock, re.MULTILINE)
    assert len(pinned) > 100
    assert sorted(pinned) == sorted(set(pinned))
