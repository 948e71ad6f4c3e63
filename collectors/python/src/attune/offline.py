"""The log of an offline job: what a trainer would have said, for `attune import`.

`collectors/PROTOCOL.md` has the format (Offline).
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import replace
from pathlib import Path

from attune.protocol import Bye, Hello, Message, encode
from attune.values import Observation, observation_fault

MAGIC = b"attune\x01\n"
"""How a log begins: the format's name and version."""

_MAX_LOGS = 10_000
_MAX_DROPPED = 2**32 - 1


class Log:
    """The file of one job, one write a record, so that a killed trainer loses none.

    What goes wrong is kept in `complaint` once and ends the record, never the training. Used from
    one thread.
    """

    def __init__(self, directory: Path, hello: Hello) -> None:
        self.hello = hello
        self.step = hello.step
        self.compute_seconds = 0.0
        self.dropped = 0
        self.complaint: str | None = None
        self.path = directory
        self._dropped_since_written = 0
        self._descriptor = -1
        try:
            self._open(directory)
        except OSError as error:
            self._give_up(error)
        self._write(MAGIC + struct.pack("<d", time.time()))
        self._record(hello)

    @property
    def open(self) -> bool:
        """Whether more is written."""
        return self._descriptor >= 0

    def take(self, observation: Observation) -> None:
        """Writes an observation, or drops and counts it."""
        if not self.open:
            return
        self.step = observation.step
        self.compute_seconds = observation.compute_seconds
        dropped = min(self._dropped_since_written, _MAX_DROPPED)
        fault = observation_fault(observation, self.hello.job.sites)
        if fault:
            self.complaint = f"observation of step {observation.step}: {fault}"
            self.dropped += 1
            self._dropped_since_written += 1
            return
        self._dropped_since_written = 0
        self._record(replace(observation, dropped=dropped))

    def finish(self, bye: Bye) -> None:
        """Writes how it ended, and closes the file."""
        self._record(bye)
        self.close()

    def close(self) -> None:
        """Closes the file as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _open(self, directory: Path) -> None:
        # A file of its own: another run's with the same key is left as it is.
        stem = self.hello.job.key.replace("/", "_")
        self.path = directory / f"{stem}.attune"
        directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        for number in range(1, _MAX_LOGS + 1):
            self.path = directory / (f"{stem}.attune" if number == 1 else f"{stem}.{number}.attune")
            try:
                self._descriptor = os.open(self.path, flags, 0o600)
                return
            except FileExistsError:
                continue
        raise FileExistsError(f"{_MAX_LOGS} logs of this key are there")

    def _record(self, message: Message) -> None:
        if self.open:
            frame = encode(message)
            self._write(struct.pack("<I", len(frame)) + frame)

    def _write(self, data: bytes) -> None:
        try:
            while self.open and data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.complaint = (
            f"cannot write {self.path}: {error.strerror or error}; "
            "training goes on without a record"
        )
        self.close()
