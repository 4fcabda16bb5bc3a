"""The code that a bento carries, as wheels that come out byte-equal from equal files."""

import base64
import hashlib
import zipfile
from pathlib import Path

Files = dict[str, bytes]
"""Contents by their path inside a wheel."""
_BEGINNING = (1980, 1, 1, 0, 0, 0)
_ORDINARY_FILE = 0o100644 << 16
_WHEEL = b"Wheel-Version: 1.0\nGenerator: touchline\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


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


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
