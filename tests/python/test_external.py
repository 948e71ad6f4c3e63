"""A policy server in Python decides for the real daemon."""

import gc
import logging
import threading
from contextlib import contextmanager

import pytest
from attune.external import Action, Answer, CountChange, Server, action_fault, serve
from attune.protocol import ActionRequest, Bye, Status, StatusRequest, Welcome
from attune.values import Outcome, floats
from attuned import HEADS, PATIENCE_MILLISECONDS, Peer, Trainer, attuned, wait_until

PATIENCE = PATIENCE_MILLISECONDS / 1000

# First and last steps of the job's windows: ten steps each, but the first is cut in three.
WINDOWS = ((1, 3), (4, 5), (6, 10))


@pytest.fixture
def endpoint(tmp_path):
    with attuned(tmp_path, "--policy", "external", "--external-deadline", "600") as address:
        yield address


@contextmanager
def trainer_at(endpoint):
    trainer = Trainer(endpoint)
    trainer.hear(Welcome)
    yield trainer
    trainer.close()


def receive(server):
    question = server.receive(PATIENCE)
    assert question is not None
    return question


def meet(server):
    wait_until(lambda: server.receive(0.01) or server.met)


def trials(asker):
    """Of the only job that is live."""
    return sum(job.trials for job in asker.ask(StatusRequest(), Status).jobs)


def halve(question):
    """Halves the heads of the second site, the last two stay."""
    action = Action(
        Action.keep(HEADS, 2).scale,
        bytes([CountChange.KEEP, CountChange.HALVE]),
        floats(range(HEADS)),
    )
    return Answer(question.id, action, log_probability=-0.5, policy_version=3, why="half will do")


def test_a_server_is_asked_at_the_end_of_a_window_and_its_answer_becomes_an_action(endpoint):
    with Server(endpoint, name="halver") as server, trainer_at(endpoint) as trainer:
        meet(server)
        trainer.train(*WINDOWS[0])
        question = receive(server)
        assert (question.window, question.step, question.key) == (0, 3, "run-1")
        assert question.deadline_seconds == 600
        assert [site.heads for site in question.sites] == [4, 4]
        assert len(question.tokens) == HEADS * 29
        assert CountChange.DOUBLE not in question.mask.open_counts(0)
        assert question.mask.open_scales(0) == [0, 1, 2, 3, 4]
        answer = halve(question)
        assert action_fault(answer.action, question.mask) is None
        server.answer(answer)
        request = trainer.hear(ActionRequest)
        assert request.id == question.id
        assert request.setting.active == bytes([1, 1, 1, 1, 0, 0, 1, 1])


def test_status_names_the_server(endpoint):
    with Server(endpoint, name="halver") as server:
        meet(server)
        asker = Peer(endpoint)
        assert asker.ask(StatusRequest(), Status).external == "halver"
        asker.close()


def test_a_server_that_was_there_before_the_daemon_is_asked(tmp_path):
    address = f"ipc://{tmp_path}/attuned.sock"
    with Server(address) as server:
        assert server.receive(0.01) is None
        with attuned(tmp_path, "--policy", "external") as endpoint, trainer_at(endpoint) as trainer:
            meet(server)
            trainer.train(*WINDOWS[0])
            assert receive(server).window == 0


def test_serve_decides_until_it_is_interrupted(endpoint):
    windows = []

    def decide(question):
        windows.append(question.window)
        if question.window == 2:
            raise KeyboardInterrupt
        return Answer(question.id, Action.keep(HEADS, 2), why="all is well")

    def run():
        with pytest.raises(KeyboardInterrupt):
            serve(decide, endpoint)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    asker = Peer(endpoint)
    wait_until(lambda: asker.ask(StatusRequest(), Status).external)
    with trainer_at(endpoint) as trainer:
        for window, (first, last) in enumerate(WINDOWS):
            trainer.train(first, last)
            if window < 2:
                wait_until(lambda: trials(asker) > window)  # noqa: B023
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert windows == [0, 1, 2]
    asker.close()


def test_what_decide_raises_is_logged_and_others_decide(endpoint, caplog, tmp_path):
    done = threading.Event()

    def decide(question):
        if question.window == 1:
            done.set()
            raise KeyboardInterrupt
        raise ZeroDivisionError("no heads to divide by")

    def run():
        with pytest.raises(KeyboardInterrupt):
            serve(decide, endpoint)

    caplog.set_level(logging.ERROR, "attune")
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    asker = Peer(endpoint)
    wait_until(lambda: asker.ask(StatusRequest(), Status).external)
    with trainer_at(endpoint) as trainer:
        trainer.train(*WINDOWS[0])
        wait_until(lambda: trials(asker) == 1)
        trainer.train(*WINDOWS[1])
        assert done.wait(PATIENCE)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        trainer.say(Bye(Outcome.FINISHED, 5, 5.0))
    asker.close()
    assert "question 1 of job run-1 is left to others" in caplog.text


def test_an_answer_that_cannot_be_used_is_complained_of(endpoint, caplog):
    caplog.set_level(logging.WARNING, "attune")
    with Server(endpoint) as server, trainer_at(endpoint) as trainer:
        meet(server)
        trainer.train(*WINDOWS[0])
        question = receive(server)
        wrong = Action(b"\x02" * HEADS, bytes([CountChange.DOUBLE] * 2), floats([0] * HEADS))
        assert "count choice 4 of site 0" in action_fault(wrong, question.mask)
        server.answer(Answer(question.id, wrong))
        wait_until(lambda: server.receive(0.01) or "site 0 is not open" in caplog.text)


def test_an_endpoint_that_zeromq_cannot_use_is_refused_by_name():
    with pytest.raises(ValueError, match="use ipc://PATH or tcp://HOST:PORT"):
        Server("carrier pigeon")
    with pytest.raises(ValueError, match="ATTUNE_KEYS"):
        Server("tcp://127.0.0.1:5555", keys="one key")


def test_a_daemon_that_does_not_answer_is_waited_for_and_that_is_logged_once(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("attune.external._PATIENCE_SECONDS", 0.05)
    waits = []

    def receive(server, timeout=None):
        waits.append(timeout)
        if len(waits) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Server, "receive", receive)
    with pytest.raises(KeyboardInterrupt):
        serve(print, f"ipc://{tmp_path}/nobody")
    assert waits == [0.05, None, None]
    assert caplog.text.count(f"no daemon answers at ipc://{tmp_path}/nobody; waiting") == 1


def test_a_server_that_nobody_closed_ends_its_socket_before_its_context(tmp_path):
    server = Server(f"ipc://{tmp_path}/nobody")
    socket = server._socket
    del server
    gc.collect()
    assert socket.closed


def test_where_the_daemon_listens_is_found_as_the_daemon_finds_it(monkeypatch):
    for name in ("ATTUNE_ENDPOINT", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    with Server() as server:
        assert server.endpoint == "ipc:///run/user/7/attune/attuned.sock"
    monkeypatch.setenv("ATTUNE_ENDPOINT", "ipc:///tmp/elsewhere")
    with Server() as server:
        assert server.endpoint == "ipc:///tmp/elsewhere"
