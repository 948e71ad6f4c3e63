"""The offline log: what `attune import` reads."""

import gc
import math
import struct
from dataclasses import replace

import pytest
from attune.probe import Probe
from attune.protocol import Bye, Hello, decode
from attune.values import Outcome
from daemon import JOB, observation, scaled


def read(path):
    data = path.read_bytes()
    assert data[:8] == b"attune\x01\n"
    (started,) = struct.unpack_from("<d", data, 8)
    messages = []
    at = 16
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        messages.append(decode(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return started, messages


def test_an_offline_probe_writes_its_messages_to_a_log_of_its_own(tmp_path):
    probe = Probe(JOB, scaled(1), directory=tmp_path / "logs")
    assert probe.due(16)
    assert not probe.due(17)
    assert probe.due(24)
    probe.observe(observation(8))
    probe.observe(replace(observation(16), loss=math.nan))
    probe.observe(observation(24))
    assert probe.poll(24) is None
    probe.finish(Outcome.FINISHED, 24, 12.0, 1.5)
    assert probe.log_path == tmp_path / "logs" / "run-1.attune"
    started, messages = read(probe.log_path)
    assert started > 1.7e9
    assert messages == [
        Hello(JOB, scaled(1)),
        observation(8),
        replace(observation(24), dropped=1),
        Bye(Outcome.FINISHED, 24, 12.0, 1.5),
    ]
    assert "loss" in probe.take_error()
    assert not probe.due(32)


def test_an_offline_run_that_was_not_finished_has_failed(tmp_path):
    probe = Probe(JOB, scaled(1), directory=tmp_path)
    probe.observe(observation(8))
    path = probe.log_path
    del probe
    gc.collect()
    assert read(path)[1][-1] == Bye(Outcome.FAILED, 8, 4.0)


def test_an_offline_probe_leaves_the_log_of_another_run_as_it_is(tmp_path):
    job = replace(JOB, key="a/b")
    paths = []
    for _ in range(3):
        probe = Probe(job, scaled(1), directory=tmp_path)
        probe.finish(Outcome.FINISHED, 0, 0.0)
        paths.append(probe.log_path.name)
    assert paths == ["a_b.attune", "a_b.2.attune", "a_b.3.attune"]


def test_a_log_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    probe = Probe(JOB, scaled(1), directory=tmp_path / "file")
    assert "training goes on without a record" in probe.take_error()
    probe.observe(observation(8))
    probe.finish(Outcome.FINISHED, 8, 1.0)
    assert probe.take_error() is None
    assert not probe.due(8)


def test_an_offline_job_that_cannot_be_used_is_refused_as_any_other(tmp_path):
    with pytest.raises(ValueError, match="name is empty"):
        Probe(replace(JOB, name=""), scaled(1), directory=tmp_path)
