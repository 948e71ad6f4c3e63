"""Suites: which jobs a sweep's file makes, and what is refused."""

import pytest
from attune.suite import SuiteError, read_suite
from attuned import ROOT


def read(tmp_path, text):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return read_suite(path)


def test_every_case_with_every_value_and_seed_is_a_job(tmp_path):
    suite = read(
        tmp_path,
        """
        command = ["./train", "--rate={rate}", "--heads={heads}", "--seed={seed}", "{directory}"]
        directory = "runs"
        seeds = 2
        [parameters]
        rate = [1e-3, 0.5]
        policy = ["auto", "untuned"]
        [environment]
        DEEP = "{deep}"
        [daemon]
        rollback = 1000
        learn = false
        [[case]]
        heads = 4
        deep = true
        [[case]]
        heads = 8
        deep = false
        """,
    )
    assert len(suite.jobs) == 8
    job = suite.jobs[0]
    assert job.command == ("./train", "--rate=0.001", "--heads=4", "--seed=0", "{directory}")
    assert job.environment == {"DEEP": "true"}
    assert job.directory == tmp_path / "runs"
    assert str(job) == "rate 0.001, heads 4, deep True, seed 0"
    assert suite.daemon == {"rollback": "1000", "learn": "false"}


def test_other_braces_are_left_as_a_sweep_leaves_them(tmp_path):
    text = """command = ["./train", "${HOME}", '{"a": {"b": 1}}', "}", "{{seed}}", "{run}"]"""
    command = read(tmp_path, text).jobs[0].command
    assert command == ("./train", "${HOME}", '{"a": {"b": 1}}', "}", "{0}", "1")


def test_jobs_that_are_alike_are_one(tmp_path):
    text = 'command = ["./train"]\nseeds = 5\n[parameters]\npolicy = ["explore"]\ndraw = [1, 2]\n'
    assert len(read(tmp_path, text).jobs) == 1


def test_the_suite_that_the_shipped_network_learned_from_is_one():
    suite = read_suite(ROOT / "experiments" / "suites" / "train.toml")
    assert suite.jobs[0].directory == ROOT
    assert suite.jobs[0].command[0] == "build/release/bin/attune-demo-lm"
    assert all("{" not in word for job in suite.jobs for word in job.command)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("command = [", "Invalid value"),
        ("seeds = 3", "there is no command"),
        ('command = ["./train", "{rate}"]', "has {rate}, which is no parameter"),
        ('command = ["a"]\n[parameters]\nr = {uniform = [0, 1]}', "parameters.r is a range"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_file_and_the_place(tmp_path, text, why):
    with pytest.raises(SuiteError) as error:
        read(tmp_path, text)
    assert "suite.toml" in str(error.value)
    assert why in str(error.value)


def test_a_missing_suite_is_refused(tmp_path):
    with pytest.raises(SuiteError, match="No such file"):
        read_suite(tmp_path / "suite.toml")
