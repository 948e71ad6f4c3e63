"""The real daemon for tests, and a trainer and others at the level of messages."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from attune.dealer import end_with
from attune.protocol import Hello, StatusRequest, decode, encode
from attune.values import Budget, JobSpec, Observation, Setting, Site, floats

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("ATTUNE_BIN_DIR") or ROOT / "build" / "release" / "bin")
# Long enough for the busiest machine: only a failing test waits for it.
PATIENCE_MILLISECONDS = 30_000

HEADS = 8
JOB = JobSpec(
    key="run-1",
    name="test",
    sites=(
        Site("first", causal=True, heads=4, head_width=8, context=64),
        Site("second", causal=True, heads=4, head_width=8, context=64),
    ),
    budget=Budget.compute(100),
    seed=2**64 - 1,
    learning_rate=0.001,
    fresh=True,
)


def step_of(step, active=b"\x01" * HEADS):
    """A measured step of the job, one second of compute a step, with healthy heads."""
    metrics, profile = [], []
    for on in active:
        metrics += [on * value for value in (0.6, 3.0, 0.3, 0.1, 1.0, 0.1, 0.4)]
        profile += [on / 16] * 16
    return Observation(
        step=step,
        compute_seconds=float(step),
        loss=5.0,
        attention_share=0.1,
        active=active,
        metrics=floats(metrics),
        profile=floats(profile),
    )


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_MILLISECONDS / 1000
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"


class Peer:
    """Says one thing, hears one thing."""

    def __init__(self, endpoint):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        end_with(self, self._context, self._socket)  # a test that fails closes nothing itself
        self._socket.rcvtimeo = PATIENCE_MILLISECONDS
        self._socket.connect(endpoint)

    def say(self, message):
        self._socket.send(encode(message))

    def hear(self, kind):
        message = decode(self._socket.recv())
        assert isinstance(message, kind), message
        return message

    def ask(self, message, kind):
        self.say(message)
        return self.hear(kind)

    def close(self):
        self._socket.close(linger=0)
        self._context.term()


class Trainer(Peer):
    """A trainer that has said Hello."""

    def __init__(self, endpoint, job=JOB):
        super().__init__(endpoint)
        self.say(Hello(job, Setting.neutral(job.heads)))

    def train(self, first, last):
        for step in range(first, last + 1):
            self.say(step_of(step))


@contextmanager
def attuned(folder, *flags):
    """An attuned of ten windows a job with its state in `folder`; the endpoint it listens at."""
    if not (BIN / "attuned").exists():
        pytest.skip(f"no attuned in {BIN}; build it, or set ATTUNE_BIN_DIR")
    process = subprocess.Popen(
        [
            BIN / "attuned",
            "--state-directory",
            folder,
            "--windows",
            "10",
            "--network",
            "none",
            *flags,
        ],
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"ipc://{folder}/attuned.sock"
    try:
        peer = Peer(endpoint)
        peer.ask(StatusRequest(), object)
        peer.close()
        yield endpoint
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
