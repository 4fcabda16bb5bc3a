"""What was only in memory is gone when the machine starts again: which start this is."""

from pathlib import Path

ID = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str:
    """Names this start of the machine; empty where the system has no name for it."""
    try:
        return ID.read_text().strip()
    except OSError:
        return ""
