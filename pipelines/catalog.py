"""All use cases, found by folder or by the entry point group `touchline.use_cases`."""

import importlib
import importlib.util
import logging
import sys
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from pydantic import ValidationError

from pipelines.errors import BadUseCase, UnknownUseCase
from pipelines.spec import UseCase

log = logging.getLogger(__name__)
GROUP = "touchline.use_cases"
PACKAGE = "touchline_use_cases"
"""Modules from folders live in this package, also inside a bento."""


class Found(NamedTuple):
    """Where a use case comes from; nothing of it is loaded yet."""

    name: str
    module: str
    file: Path | None
    """None: installed from elsewhere, imported by its module's name."""
    expectations: Path


def find(folders: tuple[Path, ...] = ()) -> dict[str, Found]:
    """Name every use case without importing one; a name that stands twice is refused."""
    shipped = Path(__file__).parent / "use_cases"
    found: dict[str, Found] = {}
    for folder in (shipped, *folders):
        if not folder.is_dir():
            raise BadUseCase(f"TOUCHLINE_USE_CASES: {folder} is no folder")
        for file in sorted(folder.glob("[a-z]*.py")):
            if folder == shipped:
                module, expectations = f"pipelines.use_cases.{file.stem}", shipped.parents[1] / "expectations"
            else:
                module, expectations = f"{PACKAGE}.{file.stem}", folder / "expectations"
            _add(found, Found(file.stem, module, file, expectations / file.stem))
    for one in _installed():
        _add(found, one)
    return found


@cache
def _installed() -> tuple[Found, ...]:
    """Those of other packages; asked once a process, because every package is looked through for it."""
    return tuple(map(_of_package, entry_points(group=GROUP)))


def _of_package(point: EntryPoint) -> Found:
    spec = importlib.util.find_spec(point.module)
    origin = Path(spec.origin) if spec and spec.origin else None
    beside = origin.parent if origin else Path()
    return Found(point.name, point.module, origin, beside / "expectations" / point.name)


def _add(found: dict[str, Found], one: Found) -> None:
    if one.name in found:
        raise BadUseCase(f"use case {one.name} exists twice: {found[one.name].file} and {one.file}")
    found[one.name] = one


def locate(name: str, folders: tuple[Path, ...] = ()) -> Found:
    """Where the use case of that name is; UnknownUseCase lists those there are."""
    found = find(folders)
    if name not in found:
        raise UnknownUseCase(f"no use case is called {name!r}; there are: {', '.join(sorted(found))}")
    return found[name]


def load(name: str, folders: tuple[Path, ...] = ()) -> UseCase:
    """One use case as its file says now; BadUseCase names the file and what is wrong in it."""
    found = locate(name, folders)
    return _load(found, *_stamp(found))


def current(name: str, folders: tuple[Path, ...] = ()) -> UseCase:
    """The same, for processes that go on for long: while the file cannot be loaded, as it said before."""
    try:
        _good[name, folders] = load(name, folders)
    except BadUseCase as broken:
        if (name, folders) not in _good:
            raise
        log.warning("what %s said before counts: %s", name, broken)
    return _good[name, folders]


def forget() -> None:
    """What was loaded is loaded again, and packages are looked for again."""
    _load.cache_clear()
    _installed.cache_clear()
    _good.clear()


_good: dict[tuple[str, tuple[Path, ...]], UseCase] = {}


def _stamp(found: Found) -> tuple[int, int]:
    """Changes with a file in a folder of the user's own; an installed module changes with an upgrade alone."""
    if found.file is None or not found.module.startswith(f"{PACKAGE}."):
        return 0, 0
    seen = found.file.stat()
    return seen.st_mtime_ns, seen.st_size


@lru_cache(maxsize=256)
def _load(found: Found, *stamp: int) -> UseCase:
    name = found.name
    try:
        use_case = _module(found).USE_CASE
    except ValidationError as wrong:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in wrong.errors())
        raise BadUseCase(f"{found.file}: {told}") from wrong
    except (ImportError, AttributeError, SyntaxError) as wrong:
        raise BadUseCase(f"{found.file}: {wrong}") from wrong
    if not isinstance(use_case, UseCase) or use_case.name != name:
        raise BadUseCase(f"{found.file}: USE_CASE must be a UseCase named {name!r}")
    return use_case


def _module(found: Found) -> ModuleType:
    if found.file is None or not found.module.startswith(f"{PACKAGE}."):
        return importlib.import_module(found.module)
    spec = importlib.util.spec_from_file_location(found.module, found.file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{found.file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[found.module] = module
    spec.loader.exec_module(module)
    return module
