"""The daemon's end of the line in tests: says only what the test lets it say."""

import time

import zmq
from attune.dealer import end_with
from attune.probe import Probe
from attune.protocol import Hello, Welcome, decode, encode
from attune.values import Budget, JobSpec, Observation, Outcome, Setting, Site, floats

# Long enough for the busiest machine: only a failing test waits for it.
PATIENCE_SECONDS = 30

JOB = JobSpec(
    key="run-1",
    name="test",
    sites=(Site("layer.0", causal=True, heads=2, head_width=8, context=64),),
    budget=Budget.steps(1000),
    seed=1,
    learning_rate=0.001,
    fresh=True,
)


def scaled(scale):
    return Setting(floats([scale, 1]), floats([1, 1]), b"\x01\x01")


def observation(step):
    return Observation(
        step=step,
        compute_seconds=0.5 * step,
        loss=2.0,
        attention_share=0.25,
        active=b"\x01\x01",
        metrics=floats([0.5] * 14),
        profile=floats([1 / 16] * 32),
    )


class Router:
    """A ROUTER socket that answers whoever spoke last."""

    def __init__(self, endpoint):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        end_with(self, self.context, self.socket)  # a test that fails closes nothing itself
        self.socket.rcvhwm = 16
        self.socket.bind(endpoint)
        self.peer = None

    def receive(self, milliseconds=2):
        """The next message that is there within the time, or None."""
        if not self.socket.poll(milliseconds):
            return None
        self.peer, frame = self.socket.recv_multipart()
        return decode(frame)

    def send(self, message):
        self.send_raw(encode(message))

    def send_raw(self, *parts):
        self.socket.send_multipart([self.peer, *parts])

    def close(self):
        self.socket.close(linger=0)
        self.context.term()


class Pair:
    """A probe with its daemon, and the step at which the trainer stands."""

    def __init__(self, folder, listening=True, **options):
        self.endpoint = f"ipc://{folder}/socket"
        self.router = Router(self.endpoint) if listening else None
        options = {"farewell_seconds": 20, **options}
        self.probe = Probe(JOB, scaled(1), endpoint=self.endpoint, **options)
        self.step = 1
        self.action = None  # the last that poll returned

    def poll_until(self, condition):
        """Lets the trainer poll at its present step until the condition holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            self.action = self.probe.poll(self.step) or self.action

    def next(self, kind):
        """Lets the trainer poll until the daemon has received this kind of message."""
        found = []

        def received():
            message = self.router.receive()
            if isinstance(message, kind):
                found.append(message)
            return found

        self.poll_until(received)
        return found[0]

    def greet(self, measure_every=3, heartbeat_seconds=30):
        hello = self.next(Hello)
        self.router.send(Welcome(1, measure_every, heartbeat_seconds))
        self.poll_until(lambda: self.probe.met)
        return hello

    def receive_action(self):
        self.action = None
        self.poll_until(lambda: self.action)
        return self.action

    def complaint(self):
        """Lets the trainer poll until the probe has something to complain about."""
        found = []

        def complained():
            error = self.probe.take_error()
            if error:
                found.append(error)
            return found

        self.poll_until(complained)
        return found[0]

    def close(self):
        self.probe.finish(Outcome.FINISHED, self.step, 0.0)
        if self.router is not None:
            self.router.close()
