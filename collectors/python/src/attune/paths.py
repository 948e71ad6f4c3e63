"""Where the daemon keeps its history and listens, found by the daemon's own rules.

Environment variables with relative values are ignored, as the XDG specification wants it.
"""

from __future__ import annotations

import os
from pathlib import Path


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name, "")
    return Path(value) if value.startswith("/") else None


def state_directory() -> Path:
    """$STATE_DIRECTORY, $XDG_STATE_HOME/attune or ~/.local/state/attune.

    Raises:
        RuntimeError: Where there is no home directory.
    """
    systemd = _from_environment("STATE_DIRECTORY")
    if systemd:
        return systemd
    xdg = _from_environment("XDG_STATE_HOME")
    return xdg / "attune" if xdg else Path.home() / ".local/state/attune"


def runtime_directory() -> Path:
    """$RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/attune or the state directory."""
    systemd = _from_environment("RUNTIME_DIRECTORY")
    if systemd:
        return systemd
    xdg = _from_environment("XDG_RUNTIME_DIR")
    return xdg / "attune" if xdg else state_directory()


def endpoint_in(directory: Path) -> str:
    """Where a daemon with that runtime directory listens."""
    return f"ipc://{directory / 'attuned.sock'}"


def store_in(directory: Path) -> Path:
    """The history of a daemon with that state directory."""
    return directory / "attune.db"
