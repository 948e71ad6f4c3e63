"""A trainer and a policy server on other hosts: over tcp to the real daemon, with its keys."""

import socket

import pytest
import zmq
from attune.external import Server
from attune.probe import Probe
from attune.protocol import Status, StatusRequest
from attune.values import Outcome, Setting
from attuned import HEADS, JOB, PATIENCE_MILLISECONDS, Peer, attuned, step_of, wait_until
from test_external import halve

pytestmark = pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq has no CURVE")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def of_trainers(folder):
    """ATTUNE_KEYS, out of the file of the daemon."""
    daemon, _, public, secret = (folder / "attuned.keys").read_text().splitlines()
    return f"{daemon} {public} {secret}"


@pytest.fixture
def hosts(tmp_path):
    """What a trainer's host sees of the daemon, and what the daemon's own does."""
    remote = f"tcp://127.0.0.1:{free_port()}"
    flags = ("--listen", remote, "--policy", "external", "--external-deadline", "600")
    with attuned(tmp_path, *flags) as local:
        yield remote, local


def test_a_probe_is_tuned_by_a_policy_server_over_tcp(hosts, tmp_path, monkeypatch):
    endpoint, local = hosts
    keys = of_trainers(tmp_path)
    monkeypatch.setenv("ATTUNE_KEYS", keys)
    probe = Probe(JOB, Setting.neutral(HEADS), endpoint=endpoint, keys=keys)
    with Server(endpoint) as server:
        wait_until(lambda: server.receive(0.01) or server.met)
        wait_until(lambda: probe.poll(0) or probe.met)
        for step in range(1, 4):
            probe.observe(step_of(step))
        question = server.receive(PATIENCE_MILLISECONDS / 1000)
        server.answer(halve(question))
        actions = []
        wait_until(lambda: actions.append(probe.poll(10)) or actions[-1])
        assert actions[-1].setting.active == bytes([1, 1, 1, 1, 0, 0, 1, 1])
        probe.applied(actions[-1], 10)
    probe.finish(Outcome.FINISHED, 10, 10.0)
    asker = Peer(local)
    wait_until(lambda: not asker.ask(StatusRequest(), Status).jobs)
    asker.close()


def test_who_has_other_keys_is_not_heard(hosts, tmp_path):
    endpoint, local = hosts
    daemon = of_trainers(tmp_path).split()[0]
    stranger = " ".join([daemon, *(key.decode() for key in zmq.curve_keypair())])
    asker = Peer(local)
    with (
        Server(endpoint, name="stranger", keys=stranger) as other,
        Server(endpoint, name="friend", keys=of_trainers(tmp_path)) as server,
    ):
        wait_until(lambda: other.receive(0.01) or server.receive(0.01) or server.met)
        assert not other.met
        assert asker.ask(StatusRequest(), Status).external == "friend"
    asker.close()
