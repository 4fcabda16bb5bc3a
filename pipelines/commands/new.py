"""A further use case: new."""

import argparse
import json
import sys
from pathlib import Path

from pipelines.commands import declare, write_json
from pipelines.errors import BadSettings
from pipelines.settings import Settings


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    one = declare(commands, "new", new, "write the files of a use case from rows; it runs at once")
    one.add_argument("name", help="name of the use case")
    one.add_argument("--from", dest="file", type=Path, required=True, help="CSV, JSON Lines or Parquet with rows")
    one.add_argument("--target", help="column to predict; default: the last")
    one.add_argument(
        "--key", action="append", default=[], help="column that names a row; may be given several times"
    )
    one.add_argument("--into", type=Path, default=Path("use_cases"), help="folder to write to (use_cases)")


def new(asked: argparse.Namespace, settings: Settings) -> None:
    """Draft, write, load what was written, and say how to run it."""
    from pipelines import catalog, scaffold
    from pipelines.adapters.readers import rows_of

    if not asked.file.is_file():
        raise BadSettings(f"--from: {asked.file} is no file")
    rows = rows_of(asked.file)
    target = asked.target or rows.columns[-1]
    drafted = scaffold.draft(asked.name, asked.file.name, rows, target, tuple(asked.key))
    folders = tuple(dict.fromkeys(path.absolute() for path in (*settings.use_cases, asked.into)))
    known = catalog.find(tuple(path for path in folders if path.is_dir()))
    if asked.name in known:
        raise BadSettings(f"{known[asked.name].file}: there already; nothing was written")
    files = scaffold.write(drafted, asked.into)
    catalog.load(asked.name, folders)
    where = json.dumps([str(path) for path in folders])
    run = f"TOUCHLINE_USE_CASES='{where}' make up USECASE={asked.name} DATA={asked.file.absolute().parent}"
    if asked.json:
        return write_json({"files": [str(file) for file in files], "decided": drafted.told, "run": run})
    lines = [*(f"wrote {file}" for file in files), *drafted.told, f"$ {run}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return None
