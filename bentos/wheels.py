"""The code that a bento carries, as wheels that come out byte-equal from equal files."""

import base64
import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pipelines
from pipelines import catalog
from pipelines.errors import BadUseCase

Files = dict[str, bytes]
"""Contents by their path inside a wheel."""
_BEGINNING = (1980, 1, 1, 0, 0, 0)
_ORDINARY_FILE = 0o100644 << 16
_WHEEL = b"Wheel-Version: 1.0\nGenerator: touchline\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def platform() -> Files:
    """The package `pipelines` as it runs now."""
    return _package(Path(pipelines.__file__).parent)


def use_case(found: catalog.Found) -> Files:
    """The use case's own code; nothing when it is part of the platform."""
    if found.module.startswith("pipelines."):
        return {}
    if found.module.startswith(f"{catalog.PACKAGE}."):
        if found.file is None:
            raise BadUseCase(f"{found.name}: has no file")
        docstring = b'"""Use cases from folders."""\n'
        return {
            f"{catalog.PACKAGE}/__init__.py": docstring,
            f"{catalog.PACKAGE}/{found.file.name}": found.file.read_bytes(),
        }
    return _installed(found.module.partition(".")[0])


def pack(folder: Path, name: str, version: str, files: Files) -> Path:
    """Write one wheel."""
    info = f"{name}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    whole = files | {f"{info}/METADATA": about.encode(), f"{info}/WHEEL": _WHEEL}
    record = "".join(f"{path},sha256={_hash(content)},{len(content)}\n" for path, content in sorted(whole.items()))
    whole |= {f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in sorted(whole.items()):
            entry = zipfile.ZipInfo(path, _BEGINNING)
            entry.external_attr = _ORDINARY_FILE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return wheel


def _installed(name: str) -> Files:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BadUseCase(f"{name}: its code cannot be found")
    origin = Path(spec.origin)
    return _package(origin.parent) if spec.submodule_search_locations else {origin.name: origin.read_bytes()}


def _package(folder: Path) -> Files:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in files}


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
