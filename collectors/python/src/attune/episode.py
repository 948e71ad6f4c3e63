"""One run of a suite's job under a daemon, decided window by window from here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
import weakref
from contextlib import suppress
from pathlib import Path

from attune.external import Server
from attune.private import OWN_GROUP, PrivateDaemon
from attune.protocol import Answer, Question
from attune.store import History
from attune.suite import SuiteJob

_LOOK_SECONDS = 0.05
_FAREWELL_SECONDS = 30.0
# Whoever decides may think for an hour, and nobody counts as lost meanwhile.
_SETTINGS = {
    "policy": "external",
    "external-deadline": "3600",
    "heartbeat": "3600",
    "silence": "86400",
}


def _remove(directory: Path | None) -> None:
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


def _leave(daemon: PrivateDaemon, directory: Path | None) -> None:
    daemon.close()  # it writes into the folder until it has ended
    _remove(directory)


class EpisodeError(RuntimeError):
    """A job that cannot be an episode; one line that names it and says why."""


class House:
    """A daemon of one's own, the line to it, and its history.

    Args:
        directory: Of its state (default: a temporary one, gone with it).
        settings: Of the daemon, by their names.

    Raises:
        DaemonError: Where no attuned can be had.
    """

    def __init__(self, directory: Path | None, settings: dict[str, str]) -> None:
        self.directory = directory or Path(tempfile.mkdtemp(prefix="attune-gym-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = None if directory else self.directory
        try:
            self.daemon = PrivateDaemon(self.directory, {"learn": "false", **settings, **_SETTINGS})
        except BaseException:
            _remove(temporary)
            raise
        self._leave = weakref.finalize(self, _leave, self.daemon, temporary)
        self.history = History(self.directory)
        self.server = Server(self.daemon.endpoint, name="attune.gym", keys="")
        while not self.server.met:
            self.server.receive(_LOOK_SECONDS)

    def close(self) -> None:
        """Ends the daemon, and removes what was temporary."""
        self.server.close()
        self._leave()


class Job:
    """One run of a suite's job. It is stopped while its question waits for an answer.

    Raises:
        EpisodeError: For a command that cannot be started.
    """

    def __init__(self, house: House, job: SuiteJob) -> None:
        self.what = f"job '{job}'"
        self._house = house
        self._key = f"episode-{uuid.uuid4().hex}"
        self._folder = house.directory / self._key
        self._folder.mkdir()
        self._output = self._folder / "output"
        place = str(self._folder)
        environment = {
            **os.environ,
            **{name: text.replace("{directory}", place) for name, text in job.environment.items()},
            "ATTUNE_ENDPOINT": house.daemon.endpoint,
            "ATTUNE_JOB": self._key,
            "ATTUNE_MODE": "on",
            "ATTUNE_POLICY": "external",
        }
        try:
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    [word.replace("{directory}", place) for word in job.command],
                    cwd=job.directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    **OWN_GROUP,
                )
        except OSError as error:
            raise EpisodeError(f"{self.what} cannot be started: {error}") from None
        self._kill = weakref.finalize(self, _kill, self._process)

    def next_question(self) -> Question | None:
        """Waits for the next question; None where the job has ended. The job is stopped then."""
        while True:
            question = self._house.server.receive(_LOOK_SECONDS)
            if question is not None and question.key == self._key:
                self._signal(signal.SIGSTOP)
                return question
            if question is None and self._process.poll() is not None:
                self._await_end()
                return None

    def answer(self, answer: Answer) -> None:
        """Answers, and lets the job go on."""
        self._house.server.answer(answer)
        self._signal(signal.SIGCONT)

    def earned(self, since: Question, until: Question | None) -> float:
        """The rewards of the trials from one question to the next, or to the end."""
        rows = self._house.history.rows(
            "SELECT coalesce(sum(reward), 0.0) FROM history_trials "
            "WHERE job = ?1 AND trial >= ?2 AND (?3 IS NULL OR trial < ?3)",
            [since.job, since.id, until.id if until else None],
        )
        return float(rows[0][0])

    def outcome(self) -> str:
        """As the history has it; lost where the daemon has never heard of the job."""
        rows = self._house.history.rows(
            "SELECT outcome FROM history_jobs WHERE key = ?", [self._key]
        )
        return str(rows[0][0]) if rows else "lost"

    def last_words(self) -> str:
        """The last line that the job printed."""
        return self._output.read_text(errors="replace").strip().rpartition("\n")[2] or "no word"

    def close(self) -> None:
        """Ends the job."""
        self._kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _await_end(self) -> None:
        """The daemon has its last word soon after it has gone; of one that was killed, none."""
        end = time.monotonic() + _FAREWELL_SECONDS
        while self._process.returncode == 0 and time.monotonic() < end:
            if self.outcome() not in ("running", "lost"):
                return
            self._house.server.receive(_LOOK_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
