"""The trainer's side of the protocol's state machine, on a DEALER socket (PROTOCOL.md).

Every call returns without waiting, but for `opening` and `say_goodbye`; none raises once the line
is made.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import replace
from typing import cast

import zmq

from attune.dealer import connect
from attune.protocol import (
    Acknowledgement,
    AckStatus,
    ActionReply,
    ActionRequest,
    Bye,
    Error,
    ErrorCode,
    Heartbeat,
    Hello,
    Message,
    ProtocolError,
    Welcome,
    decode,
    encode,
)
from attune.values import Observation, Setting, observation_fault, setting_fault

_QUEUED_MESSAGES = 32
_RECONNECT_MILLISECONDS = 100
_RECONNECT_MAX_MILLISECONDS = 5000
_MEASURE_EVERY_AT_FIRST = 8
_HEARTBEAT_AT_FIRST = 5.0
_MAX_HEARTBEAT_SECONDS = 3600.0
_MAX_FAREWELL_SECONDS = 3600.0
# A trainer waits so long before its first step for a daemon, and for its Welcome.
_MEETING_SECONDS = 0.5
_OPENING_SECONDS = 1.0
# Heartbeats of silence after which the daemon counts as gone.
_LIVENESS = 4
# Messages taken in by one poll, so that a flood cannot hold the trainer.
_MESSAGES_PER_POLL = 64
# Answers kept while they cannot be sent; the oldest go first.
_MAX_UNSENT_REPLIES = 64
_MAX_DROPPED = 2**32 - 1


class Line:
    """A job's socket, and what is known of the daemon at its other end. Used from one thread."""

    def __init__(self, endpoint: str, keys: str, hello: Hello, farewell_seconds: float) -> None:
        now = time.monotonic()
        self.closed = False
        self.met = False
        self.measure_every = _MEASURE_EVERY_AT_FIRST
        self.dropped = 0
        self.compute_seconds = 0.0
        self.complaint: str | None = None
        self.last_heard = now
        self._endpoint = endpoint
        self._farewell = min(max(farewell_seconds, 0.0), _MAX_FAREWELL_SECONDS)
        self._hello = hello  # its job; step, setting and action as they were last told
        self.step = hello.step
        self._introduced = False
        self._hello_old = False  # the one that was said has another setting
        self._hello_sent: float | None = None
        self._opening_ends: float | None = None
        self._last_sent = now
        self._last_heartbeat = now
        self._heartbeat = _HEARTBEAT_AT_FIRST
        self._waiting: ActionRequest | None = None
        self._last_reply: ActionReply | None = None
        self._replies: deque[ActionReply] = deque(maxlen=_MAX_UNSENT_REPLIES)
        self._dropped_since_sent = 0
        self._malformed = 0

        self._context = zmq.Context(1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUED_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, _QUEUED_MESSAGES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MILLISECONDS)
        try:
            connect(self._socket, endpoint, keys)
        except ValueError:
            self._socket.close(linger=0)
            self._context.term()
            raise

    def opening(self) -> ActionRequest | None:
        """What is to be applied before the first step, waited for until Welcome or time is over."""
        if self._opening_ends is None:
            self._opening_ends = time.monotonic() + _MEETING_SECONDS
        while not self.closed and not self.met:
            was_introduced = self._introduced
            self._speak(time.monotonic())
            if self._introduced and not was_introduced:
                self._opening_ends = time.monotonic() + _OPENING_SECONDS
            self._listen()
            action = self._next_action()
            if action is not None:
                return action
            left = math.ceil(1000 * (self._opening_ends - time.monotonic()))
            if self.closed or self.met or left <= 0:
                break
            said = self._introduced and not self._replies
            self._socket.poll(left, zmq.POLLIN if said else zmq.POLLIN | zmq.POLLOUT)
        return None

    def observe(self, observation: Observation) -> None:
        """Sends the observation, or drops and counts it."""
        self.step = observation.step
        self.compute_seconds = observation.compute_seconds
        self._listen()  # what waits is no silence
        if self.closed:
            return
        self._speak(time.monotonic())
        # Behind an answer that could not be sent: the daemon must not see an action's effect first.
        said = self._introduced and not self._hello_old and not self._replies
        if said and self._writable():
            fault = observation_fault(observation, self._hello.job.sites)
            if fault:
                self.complaint = f"observation of step {observation.step}: {fault}"
                # It is told how far the job is, and takes back what may have made it diverge.
                self._send(Heartbeat(self.step))
            elif self._send(
                replace(
                    observation,
                    action=self._hello.action,
                    dropped=min(self._dropped_since_sent, _MAX_DROPPED),
                )
            ):
                self._dropped_since_sent = 0
                return
        self.dropped += 1
        self._dropped_since_sent += 1

    def poll(self, step: int, take: bool) -> ActionRequest | None:
        """Takes in what waits, says what is due, and returns the action to apply at this step."""
        self.step = step
        self._listen()
        if self.closed:
            return None
        self._speak(time.monotonic())  # where that is a Hello, no action from before it is returned
        action = self._next_action() if take else None
        if self._replies:
            self._speak(time.monotonic())
        return action

    def resettle(self, setting: Setting) -> None:
        """Says Hello anew at the next call: another setting is in force than the daemon knows."""
        if self._waiting is not None:  # decided for the setting before
            why = "the trainer loaded another setting"
            self._answer(self._waiting, AckStatus.REJECTED, self.step, why)
            self._waiting = None
        self._hello = replace(self._hello, setting=setting)
        self._hello_old = True
        self._hello_sent = None

    def applied(self, action: ActionRequest, step: int) -> None:
        """Answers that the action is in force since this step."""
        self.step = step
        self._hello = replace(self._hello, setting=action.setting, action=action.id)
        self._answer(action, AckStatus.APPLIED, step, "")
        self._speak(time.monotonic())

    def rejected(self, action: ActionRequest, step: int, why: str) -> None:
        """Answers that the action was refused, and why."""
        self.step = step
        self._answer(action, AckStatus.REJECTED, step, why)
        self._speak(time.monotonic())

    def say_goodbye(self, bye: Bye) -> None:
        """Says Bye and closes; waits until it has gone, as long as the farewell may take."""
        self.step = bye.step
        deadline = time.monotonic() + self._farewell

        def left() -> int:
            return max(0, math.ceil(1000 * (deadline - time.monotonic())))

        met = self._introduced or self._hello_sent is not None
        # One that was started anew meanwhile, or has given the job up, knows nobody: it may have
        # said so by now, or its pipe is gone.
        quiet = time.monotonic() - self.last_heard >= self._heartbeat  # before old mail is read
        self._listen()
        if self.closed:
            return
        if not self._introduced or quiet or not self._writable():
            self._introduced = False
            self._hello_sent = None
        try:
            # The first turn also finds a daemon that came up since the last step.
            while True:
                self._speak(time.monotonic())
                told = self._introduced and not self._hello_old and not self._replies
                gone = told and self._send(bye)
                if gone or not (met or self._introduced) or left() == 0:
                    break
                self._socket.poll(left(), zmq.POLLOUT)
            self._close(linger=left())
        except Exception as error:  # of what cannot be encoded too
            self.complaint = f"{self._endpoint}: saying Bye failed: {error}"
            self.closed = True
            self._socket.close(linger=0)

    def _writable(self) -> bool:
        """Whether a message can be queued now: asked before a message is made."""
        try:
            return bool(cast(int, self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)
        except zmq.ZMQError:
            return False  # a signal came in between: not now

    def _send(self, message: Message) -> bool:
        """Queues the message, or returns False and leaves everything as it was."""
        if not self._writable():
            return False
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            self.complaint = f"{self._endpoint}: sending failed: {error}"
            return False
        self._last_sent = time.monotonic()
        return True

    def _introduce(self, now: float) -> None:
        """Says Hello, at most once a heartbeat."""
        if self._hello_sent is not None and now - self._hello_sent < self._heartbeat:
            return
        if not self._writable() or not self._send(replace(self._hello, step=self.step)):
            return
        self._waiting = None  # what the daemon decided before, it takes for lost
        self._hello_sent = now
        self._hello_old = False
        if not self._introduced:
            self.last_heard = now
        self._introduced = True

    def _speak(self, now: float) -> None:
        """Says what is due: Hello, answers that wait, a heartbeat. Observations go behind them."""
        silent = self._introduced and now - self.last_heard >= _LIVENESS * self._heartbeat
        if not self._introduced or silent or self._hello_old:
            self._introduce(now)
        if not self._introduced or self._hello_old:
            return
        while self._replies and self._send(self._replies[0]):
            self._replies.popleft()
        if (
            not silent
            and now - min(self._last_sent, self.last_heard) >= self._heartbeat
            and now - self._last_heartbeat >= self._heartbeat
            and self._send(Heartbeat(self.step))
        ):
            self._last_heartbeat = now

    def _answer(self, action: ActionRequest, status: AckStatus, step: int, why: str) -> None:
        self._last_reply = ActionReply(action.id, Acknowledgement(status, step, why))
        self._replies.append(self._last_reply)

    def _listen(self) -> None:
        for _ in range(_MESSAGES_PER_POLL):
            if self.closed:
                return
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                self.complaint = f"{self._endpoint}: receiving failed: {error}"
                return
            try:
                if len(parts) != 1:
                    raise ProtocolError(ErrorCode.MALFORMED, "a message in several parts")
                self._take(decode(parts[0]))
            except ProtocolError as error:
                self._malformed += 1
                messages = "1 message" if self._malformed == 1 else f"{self._malformed} messages"
                self.complaint = (
                    f"{self._endpoint} sent {messages} that cannot be read ({error}); "
                    "is it attuned's endpoint?"
                )

    def _take(self, message: Message) -> None:
        self.last_heard = time.monotonic()
        if isinstance(message, Welcome):
            self._take_welcome(message)
        elif isinstance(message, ActionRequest):
            self._take_action(message)
        elif isinstance(message, Error):
            # The daemon was started anew and knows nobody: that is mended by a Hello, silently.
            if message.code == ErrorCode.OUT_OF_ORDER:
                self._introduced = False
                return
            self.complaint = f"attuned: {message.text}"
            if message.code in (ErrorCode.CONTRADICTION, ErrorCode.VERSION):
                self._close(linger=0)
        elif not isinstance(message, Heartbeat):
            raise ProtocolError(
                ErrorCode.MALFORMED,
                f"{type(message).__name__}, which the daemon does not send to trainers",
            )

    def _take_welcome(self, welcome: Welcome) -> None:
        seconds = welcome.heartbeat_seconds
        if welcome.measure_every == 0 or not 0 < seconds <= _MAX_HEARTBEAT_SECONDS:
            self.complaint = (
                f"{self._endpoint} sent a Welcome that cannot be used: "
                f"measure_every {welcome.measure_every}, heartbeat_seconds {seconds}"
            )
            return
        self.met = True
        self._introduced = True
        self.measure_every = welcome.measure_every
        self._heartbeat = seconds

    def _take_action(self, action: ActionRequest) -> None:
        if self._last_reply is not None and self._last_reply.id == action.id:
            self._replies.append(self._last_reply)  # asked again: the answer was lost
            return
        if self._waiting is not None and self._waiting.id != action.id:
            why = f"replaced by action {action.id}"
            self._answer(self._waiting, AckStatus.REJECTED, self.step, why)
        self._waiting = action

    def _next_action(self) -> ActionRequest | None:
        """The action to apply at this step; the ones that cannot be are answered."""
        action, self._waiting = self._waiting, None
        if action is None:
            return None
        if self.step > action.expires_step:
            self._answer(action, AckStatus.EXPIRED, self.step, "")
            return None
        fault = setting_fault(action.setting, self._hello.job.sites)
        if fault:
            self._answer(action, AckStatus.REJECTED, self.step, fault)
            return None
        return action

    def _close(self, linger: int) -> None:
        """From here on nothing is said and nothing heard. Takes up to `linger` milliseconds."""
        self.closed = True
        self._waiting = None
        self._socket.close(linger=linger)
        self._context.term()
