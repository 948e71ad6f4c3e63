"""A trainer's line to the daemon: waits before the first step and at the end alone, never raises.

One DEALER socket. When the daemon is away, stopped or slow, observations are dropped and counted,
and training goes on with its present setting. `collectors/PROTOCOL.md` has the rules that it
keeps. Offline it writes the same messages to a file instead, for `attune import`; then no action
ever comes.

Not thread-safe: a probe is used from one thread at a time, which may change. A process that was
forked from the probe's is none of its users: there every call does nothing.
"""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path

from attune.line import Line
from attune.offline import Log
from attune.protocol import ActionRequest, Bye, Hello
from attune.values import JobSpec, Observation, Outcome, Setting, job_fault, setting_fault

MEASURE_EVERY_AT_FIRST = 8
"""Steps between measurements until the daemon has said otherwise, and offline."""

_FIRST_STEPS = 16


def is_due(step: int, measure_every: int) -> bool:
    """Whether a step is one to measure: steps 1 to 16, then every `measure_every`-th.

    What is decided early pays all along, so all first steps are seen.
    """
    return step > 0 and (step <= _FIRST_STEPS or step % measure_every == 0)


class Probe:
    """A job's line to its daemon.

    Args:
        job: Who the trainer is.
        setting: What is in force at it.
        endpoint: ipc://… or tcp://…; empty: no daemon, every call is a no-op.
        directory: Offline where it is given, whatever the endpoint: the folder for the job's log.
        keys: Of a tcp endpoint: the daemon's public key, the trainers' public and secret key, in
            Z85 with spaces between. As ATTUNE_KEYS has them.
        farewell_seconds: `finish` waits at most this long for the last message to go.
        step: At which the trainer stands.
        compute_seconds: Spent until there.

    Raises:
        ValueError: For an endpoint that ZeroMQ cannot use, and for a job or setting that cannot be
            used, with an endpoint or without. That no daemon answers is no error.
    """

    def __init__(
        self,
        job: JobSpec,
        setting: Setting,
        *,
        endpoint: str = "",
        directory: Path | None = None,
        keys: str = "",
        farewell_seconds: float = 2.0,
        step: int = 0,
        compute_seconds: float = 0.0,
    ) -> None:
        self._line: Line | None = None
        self._log: Log | None = None
        self._process = os.getpid()
        fault = job_fault(job) or setting_fault(setting, job.sites)
        if fault:
            raise ValueError(fault)
        if directory is None and not endpoint:
            return
        hello = Hello(job, setting, step)
        if directory is not None:
            self._log = Log(directory, hello)
            self._log.compute_seconds = compute_seconds
        else:
            self._line = Line(endpoint, keys, hello, farewell_seconds)
            self._line.compute_seconds = compute_seconds
        # A trainer that ends without `finish` says that it failed, also at the interpreter's exit.
        weakref.finalize(self, _fail, self._line, self._log, self._process)

    def due(self, step: int) -> bool:
        """Whether to measure this step: the first 16, and every `measure_every`-th (8 until told).

        False without an endpoint, after `finish`, and once the daemon has turned the job away.
        """
        if self._log is not None:
            return self._log.open and is_due(step, MEASURE_EVERY_AT_FIRST)
        line = self._live_line()
        return line is not None and is_due(step, line.measure_every)

    def opening(self) -> ActionRequest | None:
        """Before the first step, where nobody has trained the weights: what the daemon decides.

        Says Hello and waits. To be called, and what it returns answered by `applied` or `rejected`
        at step 0, until it returns None: that takes half a second where there is no daemon, and a
        second more at most where there is one.
        """
        line = self._live_line()
        return None if line is None else line.opening()

    def observe(self, observation: Observation) -> None:
        """Sends an observation, or drops and counts it; fills in `dropped` and `action`.

        One that cannot be used is dropped, and the fault kept for `take_error`.
        """
        if self._log is not None and self._mine():
            self._log.take(observation)
        line = self._live_line()
        if line is not None:
            line.observe(observation)

    def poll(self, step: int, take: bool = True) -> ActionRequest | None:
        """At a safe point, once a step: takes in what the daemon sent and says what is due.

        Args:
            step: Optimiser steps done.
            take: False where no action can be applied now: it waits, and may expire.

        Returns:
            The newest action to apply now, if any; it must be answered by `applied` or `rejected`.
            Actions that are expired, replaced or unusable are answered here.
        """
        if self._log is not None:
            self._log.step = step
        line = self._live_line()
        return None if line is None else line.poll(step, take)

    def resettle(self, setting: Setting) -> None:
        """Tells the daemon that another setting is in force, which it did not decide."""
        line = self._live_line()
        if line is not None:
            line.resettle(setting)

    def applied(self, action: ActionRequest, step: int) -> None:
        """The truth about the action that `poll` returned: it is in force since this step."""
        line = self._live_line()
        if line is not None:
            line.applied(action, step)

    def rejected(self, action: ActionRequest, step: int, why: str) -> None:
        """The truth about the action that `poll` returned: it was refused, and why."""
        line = self._live_line()
        if line is not None:
            line.rejected(action, step, why)

    def finish(
        self,
        outcome: Outcome,
        step: int,
        compute_seconds: float,
        validation_loss: float | None = None,
    ) -> None:
        """Says Bye and closes the line; later calls do nothing.

        Waits up to `farewell_seconds` where the daemon was met, not at all where it never was.
        An outcome other than FINISHED counts as FAILED.
        """
        if outcome != Outcome.FINISHED:
            outcome = Outcome.FAILED
        bye = Bye(outcome, step, compute_seconds, validation_loss)
        if self._log is not None and self._mine():
            self._log.finish(bye)
        line = self._live_line()
        if line is not None:
            line.say_goodbye(bye)

    @property
    def dropped(self) -> int:
        """Observations dropped since the beginning."""
        if self._line is not None:
            return self._line.dropped
        return self._log.dropped if self._log is not None else 0

    @property
    def measure_every(self) -> int:
        """Steps between measurements, as the daemon wants it."""
        return MEASURE_EVERY_AT_FIRST if self._line is None else self._line.measure_every

    @property
    def met(self) -> bool:
        """Whether a daemon has ever answered."""
        return self._line is not None and self._line.met

    @property
    def silent_seconds(self) -> float:
        """How long there has been an endpoint and no word from it; 0 without an endpoint."""
        line = self._live_line()
        return 0.0 if line is None else time.monotonic() - line.last_heard

    @property
    def log_path(self) -> Path | None:
        """The file being written, or that was; None unless offline."""
        return self._log.path if self._log is not None else None

    def take_error(self) -> str | None:
        """The last complaint, the daemon's or the probe's own; cleared by the call."""
        speaker = self._log if self._log is not None else self._line
        if speaker is None:
            return None
        complaint, speaker.complaint = speaker.complaint, None
        return complaint

    def _mine(self) -> bool:
        return os.getpid() == self._process

    def _live_line(self) -> Line | None:
        line = self._line
        return line if line is not None and not line.closed and self._mine() else None


def _fail(line: Line | None, log: Log | None, process: int) -> None:
    if os.getpid() != process:
        return
    if line is not None and not line.closed:
        line.say_goodbye(Bye(Outcome.FAILED, line.step, line.compute_seconds))
    if log is not None and log.open:
        log.finish(Bye(Outcome.FAILED, log.step, log.compute_seconds))
