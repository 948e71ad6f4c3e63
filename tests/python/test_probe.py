"""The probe against a real ZeroMQ ROUTER in this process."""

import gc
import math
import os
import threading
import time
from dataclasses import replace

import pytest
from attune.probe import Probe
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
    StatusRequest,
    Welcome,
)
from attune.values import Observation, Outcome, Setting, floats
from daemon import JOB, PATIENCE_SECONDS, Pair, Router, observation, scaled


@pytest.fixture
def pair(tmp_path):
    made = Pair(tmp_path)
    yield made
    made.close()


def test_a_probe_without_an_endpoint_does_nothing():
    probe = Probe(JOB, scaled(1))
    assert not probe.due(8)
    probe.observe(observation(8))
    assert probe.poll(8) is None
    probe.finish(Outcome.FINISHED, 8, 1.0)
    assert probe.dropped == 0
    assert probe.take_error() is None


def test_before_its_first_step_a_trainer_applies_what_comes_before_welcome(tmp_path):
    endpoint = f"ipc://{tmp_path}/socket"
    router = Router(endpoint)
    heard = []

    def daemon():
        for answer in (
            ActionRequest(7, 16, scaled(7)),
            ActionRequest(8, 16, scaled(8)),
            Welcome(1, 3, 5.0),
        ):
            message = router.receive(1000 * PATIENCE_SECONDS)
            if message is None:
                return
            heard.append(message)
            router.send(answer)

    speaker = threading.Thread(target=daemon)
    speaker.start()
    probe = Probe(JOB, scaled(1), endpoint=endpoint)
    actions = []
    while (action := probe.opening()) is not None:
        actions.append(action)
        probe.applied(action, 0)
    speaker.join()
    assert [(action.id, action.setting) for action in actions] == [(7, scaled(7)), (8, scaled(8))]
    assert heard[0].step == 0
    assert heard[1:] == [
        ActionReply(number, Acknowledgement(AckStatus.APPLIED, 0, "")) for number in (7, 8)
    ]
    assert probe.due(18)  # every third step behind the first 16
    probe.finish(Outcome.FINISHED, 0, 0.0)
    router.close()


@pytest.mark.parametrize("silent", [True, False])
def test_a_trainer_whose_daemon_says_nothing_begins_all_the_same(tmp_path, silent):
    endpoint = f"ipc://{tmp_path}/socket"
    router = Router(endpoint) if silent else None
    probe = Probe(JOB, scaled(1), endpoint=endpoint, farewell_seconds=0)
    assert probe.opening() is None
    assert probe.poll(1) is None
    probe.finish(Outcome.FINISHED, 1, 0.0)
    if router is not None:
        router.close()


@pytest.mark.parametrize(
    ("job", "setting", "endpoint", "words"),
    [
        (JOB, scaled(1), "nonsense", "endpoint 'nonsense'"),
        (JOB, scaled(1), "tcp://127.0.0.1:1", "three keys"),
        (replace(JOB, key=""), scaled(1), "ipc:///x", "key is empty"),
        (replace(JOB, policy="p" * 201), scaled(1), "ipc:///x", "policy has 201 bytes"),
        (JOB, scaled(17), "ipc:///x", "scale: head 0"),
        (JOB, Setting.neutral(3), "ipc:///x", "scale: there are 3 entries"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(job, setting, endpoint, words):
    with pytest.raises(ValueError, match=words):
        Probe(job, setting, endpoint=endpoint)


def test_a_trainer_introduces_itself_and_learns_how_often_to_measure(pair):
    assert not pair.probe.due(0)
    assert pair.probe.due(1)
    assert pair.probe.due(16)
    assert not pair.probe.due(18)
    assert pair.probe.due(24)
    hello = pair.greet(measure_every=3)
    assert hello == Hello(JOB, scaled(1), 1, 0)
    assert pair.probe.due(16)
    assert pair.probe.due(18)
    assert not pair.probe.due(25)


def test_a_welcome_without_sense_is_not_followed_and_the_trainer_is_told(pair):
    pair.next(Hello)
    pair.router.send(Welcome(1, 0, 2.0))
    assert "measure_every 0" in pair.complaint()
    assert not pair.probe.met


def test_observations_dropped_while_the_daemon_is_away_are_counted_in_the_next(tmp_path):
    pair = Pair(tmp_path, listening=False)
    for step in (8, 16, 24):
        pair.probe.observe(observation(step))
    assert pair.probe.dropped == 3
    pair.router = Router(pair.endpoint)
    pair.greet()
    pair.probe.observe(observation(32))
    assert pair.next(Observation).dropped == 3
    pair.probe.observe(observation(40))
    assert pair.next(Observation).dropped == 0
    pair.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": math.nan}, "loss is nan"),
        ({"metrics": floats([2.0] * 14)}, "entropy of head 0"),
        ({"profile": floats([0.0] * 32)}, "sum to 0"),
        ({"active": b"\x01\x00"}, "inactive head 1"),
        ({"profile": floats()}, "there are 0 values"),
    ],
)
def test_an_observation_that_cannot_be_used_is_dropped_and_told(pair, change, words):
    pair.greet()
    pair.probe.observe(replace(observation(3), **change))
    assert words in pair.probe.take_error()
    assert pair.probe.dropped == 1
    assert pair.next(Heartbeat).step == 3  # the daemon is told at once how far the job is


def test_an_applied_action_is_acknowledged_and_named_by_what_follows(pair):
    pair.greet()
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    action = pair.receive_action()
    assert action.setting == scaled(2)
    pair.probe.applied(action, 5)
    reply = pair.next(ActionReply)
    assert reply == ActionReply(7, Acknowledgement(AckStatus.APPLIED, 5))
    pair.probe.observe(observation(6))
    assert pair.next(Observation).action == 7


def test_a_refusal_reaches_the_daemon_with_its_reason(pair):
    pair.greet()
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    pair.probe.rejected(pair.receive_action(), 5, "not today")
    reply = pair.next(ActionReply).acknowledgement
    assert reply == Acknowledgement(AckStatus.REJECTED, 5, "not today")


def test_of_several_actions_the_newest_is_applied_and_the_others_are_answered(pair):
    pair.greet()
    for number in (1, 2, 3):
        pair.router.send(ActionRequest(number, 100, scaled(number)))
    answered = []

    def all_arrived():
        message = pair.router.receive()
        if isinstance(message, ActionReply):
            answered.append((message.id, message.acknowledgement.why))
        return pair.action and pair.action.id == 3

    pair.poll_until(all_arrived)
    # How many came together is the network's to say; none may be lost.
    for number, why in answered:
        assert why == f"replaced by action {number + 1}"


def test_an_action_that_was_answered_gets_the_same_answer_again(pair):
    pair.greet()
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    pair.probe.applied(pair.receive_action(), 5)
    first = pair.next(ActionReply)
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    assert pair.next(ActionReply) == first


def test_an_action_whose_step_has_passed_is_answered_as_expired(pair):
    pair.greet()
    pair.step = 101
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    assert pair.next(ActionReply).acknowledgement.status == AckStatus.EXPIRED
    assert pair.action is None


def test_an_action_waits_where_none_can_be_applied_now(pair):
    pair.greet()
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    pair.router.send(Heartbeat())
    for _ in range(100):
        assert pair.probe.poll(pair.step, take=False) is None
    assert pair.receive_action().id == 7


def test_an_action_that_waits_is_gone_once_the_trainer_says_hello_anew(pair):
    """Several ranks let an action wait; hearing Hello, the daemon takes it for lost."""
    pair.greet(heartbeat_seconds=0.001)
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    pair.router.send(Error(ErrorCode.OUT_OF_ORDER, "Hello first"))

    def said_hello():
        assert pair.probe.poll(pair.step, take=False) is None
        return isinstance(pair.router.receive(), Hello)

    assert any(said_hello() for _ in range(1000))
    assert pair.probe.poll(pair.step, take=True) is None


def test_an_action_outside_the_bounds_is_refused_for_the_trainer(pair):
    pair.greet()
    pair.router.send(ActionRequest(7, 100, scaled(17)))
    reply = pair.next(ActionReply).acknowledgement
    assert reply.status == AckStatus.REJECTED
    assert "scale" in reply.why


def test_a_daemon_that_stops_reading_loses_observations_and_every_one_is_counted(pair):
    pair.greet()
    sent = 0
    while pair.probe.dropped == 0:
        sent += 1
        pair.probe.observe(observation(sent))
    received = []

    def all_read():
        message = pair.router.receive()
        if isinstance(message, Observation):
            received.append(message)
        return len(received) == sent - 1

    pair.poll_until(all_read)
    pair.probe.observe(observation(sent + 1))
    assert pair.next(Observation).dropped == 1


def test_a_trainer_that_a_new_daemon_does_not_know_introduces_itself_as_it_stands(pair):
    pair.greet(heartbeat_seconds=0.001)
    pair.router.send(ActionRequest(7, 100, scaled(2)))
    pair.probe.applied(pair.receive_action(), 5)
    pair.step = 9
    pair.poll_until(lambda: isinstance(pair.router.receive(), ActionReply))
    pair.router.send(Error(ErrorCode.OUT_OF_ORDER, "Hello first"))
    hello = pair.next(Hello)
    assert (hello.step, hello.action, hello.setting) == (9, 7, scaled(2))
    assert pair.probe.take_error() is None


def test_a_trainer_finds_a_daemon_that_was_started_anew(pair):
    pair.greet(heartbeat_seconds=0.05)
    pair.router.close()
    pair.router = Router(pair.endpoint)
    assert pair.next(Hello).job == JOB


def test_a_trainer_with_nothing_to_report_sends_heartbeats(pair):
    pair.greet(heartbeat_seconds=0.05)
    pair.step = 12
    assert pair.next(Heartbeat) == Heartbeat(12)


@pytest.mark.parametrize("code", [ErrorCode.CONTRADICTION, ErrorCode.VERSION])
def test_a_job_that_is_turned_away_falls_mute_and_trains_on(pair, code):
    pair.greet()
    pair.router.send(Error(code, "another job has this key"))
    assert pair.complaint() == "attuned: another job has this key"
    assert not pair.probe.due(3)
    pair.probe.observe(observation(3))
    assert pair.router.receive(50) is None


def test_a_complaint_about_content_is_handed_on_and_changes_nothing_else(pair):
    pair.greet()
    pair.router.send(Error(ErrorCode.UNUSABLE, "loss is odd"))
    assert pair.complaint() == "attuned: loss is odd"
    assert pair.probe.due(3)


@pytest.mark.parametrize("parts", [[b"GET / HTTP/1.1"], [b"a", b"b"], [b""]])
def test_bytes_from_an_endpoint_that_is_no_daemon_are_told_and_survived(pair, parts):
    pair.greet()
    pair.router.send_raw(*parts)
    assert "is it attuned's endpoint?" in pair.complaint()
    assert pair.probe.due(3)


def test_a_message_that_is_not_for_trainers_is_told(pair):
    pair.greet()
    pair.router.send(StatusRequest())
    assert "StatusRequest" in pair.complaint()


def test_finish_says_how_it_ended_behind_everything_said_before(pair):
    pair.greet()
    pair.probe.observe(observation(3))
    pair.probe.finish(Outcome.FINISHED, 9, 4.5, 2.25)
    assert isinstance(pair.router.receive(5000), Observation)
    assert pair.router.receive(5000) == Bye(Outcome.FINISHED, 9, 4.5, 2.25)
    assert not pair.probe.due(3)


def test_finish_reads_first_whether_the_daemon_knows_nobody(pair):
    pair.greet()
    pair.router.send(Error(ErrorCode.OUT_OF_ORDER, "Hello first"))
    assert pair.probe._line._socket.poll(5000)  # it has come, and nobody has read it
    pair.probe.finish(Outcome.FINISHED, 9, 4.5, 2.25)
    assert isinstance(pair.router.receive(5000), Hello)
    assert pair.router.receive(5000) == Bye(Outcome.FINISHED, 9, 4.5, 2.25)


def test_a_probe_that_goes_without_finish_says_that_the_job_failed(pair):
    pair.greet()
    pair.probe.observe(observation(3))
    pair.probe = None
    gc.collect()
    assert isinstance(pair.router.receive(5000), Observation)
    assert pair.router.receive(5000) == Bye(Outcome.FAILED, 3, 1.5)
    pair.probe = Probe(JOB, scaled(1))


def test_a_forked_process_says_nothing_for_its_parent(pair):
    pair.greet()
    child = os.fork()
    if child == 0:
        pair.probe.observe(observation(3))
        pair.probe.finish(Outcome.FAILED, 3, 1.0)
        os._exit(0)
    os.waitpid(child, 0)
    pair.probe.observe(observation(6))
    assert pair.next(Observation).step == 6


def test_a_trainer_that_never_met_a_daemon_does_not_wait_for_one_at_its_end(tmp_path):
    pair = Pair(tmp_path, listening=False, farewell_seconds=3600)
    pair.probe.observe(observation(8))
    start = time.monotonic()
    pair.probe.finish(Outcome.FINISHED, 8, 1.0)
    assert time.monotonic() - start < 60  # an hour would be the farewell
