"""Decide for the daemon: a policy server in Python.

    from attune.external import Answer, Action, serve

    def decide(question):
        action = Action.keep(question.mask.heads, question.mask.sites)
        return Answer(question.id, action, why="all is well")

    serve(decide)

Jobs whose policy is external (`attuned --policy external`, `attune policy use external` or
ATTUNE_POLICY=external) are then decided by `decide`, under the daemon's governor. Where it is
late, declines or answers what cannot be used, the network, kmeans and keep decide.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from types import TracebackType

import zmq

from attune import paths
from attune.dealer import connect, end_with
from attune.decisions import (
    KEEP_SCALE,
    SCALE_FACTORS,
    TOKEN_FEATURES,
    Action,
    ActionMask,
    CountChange,
    action_fault,
)
from attune.protocol import (
    Answer,
    Error,
    Message,
    ProtocolError,
    Question,
    Serve,
    Serving,
    decode,
    encode,
)

__all__ = [
    "KEEP_SCALE",
    "SCALE_FACTORS",
    "TOKEN_FEATURES",
    "Action",
    "ActionMask",
    "Answer",
    "CountChange",
    "Question",
    "Server",
    "action_fault",
    "serve",
]

_log = logging.getLogger("attune")
_HEARTBEAT_AT_FIRST = 5.0
# A daemon that has not answered for so long is told to the user, once.
_PATIENCE_SECONDS = 5.0


class Server:
    """A policy server's line to the daemon. Used from one thread; a context manager.

    It says that it serves as long as `receive` is called; a daemon that is started anew is found
    again by itself.

    Args:
        endpoint: Of the daemon (default: $ATTUNE_ENDPOINT, else where the user's daemon listens).
        name: For people, 1 to 200 bytes.
        keys: Of a tcp endpoint, as ATTUNE_KEYS has them (default: $ATTUNE_KEYS).

    Raises:
        ValueError: For an endpoint or keys that ZeroMQ cannot use. That no daemon answers is no
            error.
    """

    def __init__(
        self, endpoint: str | None = None, *, name: str = "python", keys: str | None = None
    ) -> None:
        self.endpoint = (
            endpoint
            or os.environ.get("ATTUNE_ENDPOINT")
            or paths.endpoint_in(paths.runtime_directory())
        )
        self.met = False
        """Whether a daemon has answered."""
        self._name = name
        self._heartbeat = _HEARTBEAT_AT_FIRST
        self._next_serve = time.monotonic()
        self._context = zmq.Context(1)
        self._socket = self._context.socket(zmq.DEALER)
        end_with(self, self._context, self._socket)
        try:
            keys = os.environ.get("ATTUNE_KEYS", "") if keys is None else keys
            connect(self._socket, self.endpoint, keys)
        except ValueError:
            self.close()
            raise

    def receive(self, timeout: float | None = None) -> Question | None:
        """The next question; None after `timeout` seconds without one (default: waits for it)."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            message = self._take()
            if isinstance(message, Question):
                return message
            now = time.monotonic()
            if message is not None:
                continue
            if now >= end:
                return None
            due = now >= self._next_serve
            if due and self._send(Serve(self._name)):
                self._next_serve = now + self._heartbeat
                due = False
            # What cannot be sent has nobody to go to: it wakes this once a daemon is there.
            wake = min(end, now + self._heartbeat if due else self._next_serve)
            self._socket.poll(
                math.ceil(1000 * (wake - now)), zmq.POLLIN | (zmq.POLLOUT if due else 0)
            )

    def answer(self, answer: Answer) -> None:
        """Says what is to be done; a daemon that is gone by now does not hear it.

        Raises:
            ValueError: For what the protocol does not allow (`protocol.encode`).
        """
        self._send(answer)

    def close(self) -> None:
        """Ends the line; nothing is decided by this server any more."""
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, message: Message) -> bool:
        frame = encode(message)
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _take(self) -> Message | None:
        try:
            frame = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        try:
            message = decode(frame)
        except ProtocolError as error:
            _log.warning("%s sent what cannot be read (%s)", self.endpoint, error)
            return Error(error.code, str(error))
        if isinstance(message, Serving):
            self.met = True
            self._heartbeat = min(max(message.heartbeat_seconds, 0.1), 3600.0)
            self._next_serve = min(self._next_serve, time.monotonic() + self._heartbeat)
        elif isinstance(message, Error):
            _log.warning("attuned: %s", message.text)
        return message


def serve(
    decide: Callable[[Question], Answer],
    endpoint: str | None = None,
    *,
    name: str = "python",
    keys: str | None = None,
) -> None:
    """Answers questions until the process is interrupted.

    A daemon that does not answer is waited for; that is logged once, after 5 s.

    Args:
        decide: Chooses among what is open (`question.mask`). What it raises is logged, and the
            question is left to the policies behind this one. It has `question.deadline_seconds`.
        endpoint: As `Server` has it, like `name` and `keys`.
        name: For people.
        keys: Of a tcp endpoint.

    Raises:
        ValueError: As `Server`.
    """
    with Server(endpoint, name=name, keys=keys) as server:
        question = server.receive(_PATIENCE_SECONDS)
        if question is None and not server.met:
            _log.warning("no daemon answers at %s; waiting for one", server.endpoint)
        while True:
            if question is not None:
                server.answer(_ask(decide, question))
            question = server.receive()


def _ask(decide: Callable[[Question], Answer], question: Question) -> Answer:
    """What `decide` chooses, in a form that can be sent; a refusal where it fails."""
    try:
        answer = decide(question)
        encode(answer)
    except Exception as error:
        _log.exception("question %d of job %s is left to others", question.id, question.key)
        return Answer(question.id, Action(), why=f"it raised {type(error).__name__}: {error}")
    return answer
