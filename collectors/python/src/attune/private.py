"""An attuned of one's own: started, answered for, and ended with the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq

from attune import paths
from attune.protocol import StatusRequest, encode

_START_SECONDS = 60.0

# Stopped processes whose parent is gone are ended by the kernel where they are of its session.
OWN_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)


class DaemonError(RuntimeError):
    """An attuned that cannot be had; one line that says why and what to do."""


class PrivateDaemon:
    """An attuned with its state in `directory`, listening when this returns.

    Args:
        directory: Its state and its socket.
        settings: By their names, as `attuned --help` has them.

    Raises:
        DaemonError: Where there is no attuned, and where it ends or does not answer in a minute.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.endpoint = paths.endpoint_in(directory)
        log = directory / "attuned.err"
        words = [f"--{name}={value}" for name, value in settings.items()]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [_program(), "--config=/dev/null", f"--state-directory={directory}", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                **OWN_GROUP,
            )
        self._end = weakref.finalize(self, _terminate, self._process)
        try:
            self._await(log)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends it; all that it took is in its store then."""
        self._end()

    def _await(self, log: Path) -> None:
        context = zmq.Context(1)
        socket = context.socket(zmq.DEALER)
        try:
            socket.connect(self.endpoint)
            socket.send(encode(StatusRequest()))
            end = time.monotonic() + _START_SECONDS
            while not socket.poll(50):
                if self._process.poll() is not None:
                    last = log.read_text(errors="replace").strip().rpartition("\n")[2]
                    raise DaemonError(last or f"attuned ended with {self._process.returncode}")
                if time.monotonic() > end:
                    raise DaemonError(f"attuned does not answer at {self.endpoint}; see {log}")
        finally:
            socket.close(linger=0)
            context.term()


def _program() -> str:
    """Where attuned is: in $ATTUNE_BIN_DIR, else on the PATH."""
    directory = os.environ.get("ATTUNE_BIN_DIR")
    program = shutil.which("attuned", path=directory or None)
    if program is None:
        where = directory or "the PATH"
        raise DaemonError(f"there is no attuned in {where}; install it, or set ATTUNE_BIN_DIR")
    return program


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
