"""The package as it is installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import attune
import pytest
from attune.protocol import Status, StatusRequest, Welcome
from attuned import PATIENCE_MILLISECONDS, ROOT, Peer, Trainer, attuned, wait_until

SOURCE = ROOT / "collectors" / "python" / "src"


def test_its_version_is_that_of_the_daemon():
    daemon = re.search(r"project\(attune VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())
    project = (ROOT / "collectors" / "python" / "pyproject.toml").read_text()
    package = re.search(r'^version = "(.*)"', project, re.MULTILINE)
    assert attune.__version__ == daemon[1] == package[1]


def test_it_is_typed():
    assert (Path(attune.__file__).parent / "py.typed").exists()


WITHOUT_TORCH = """
import sys

sys.modules["torch"] = None  # as where it is not installed
import attune
from attune.external import Action, Answer, Server

with Server(sys.argv[1], name="torchless") as server:
    question = server.receive(60)
    action = Action.keep(question.mask.heads, question.mask.sites)
    server.answer(Answer(question.id, action, why="all is well"))
print(attune.history(sys.argv[2]).path)
try:
    attune.attach
except ModuleNotFoundError as error:
    print(error)
"""


def test_policies_are_served_and_histories_read_where_there_is_no_torch(tmp_path):
    flags = ("--policy", "external", "--external-deadline", "600")
    with attuned(tmp_path, *flags) as endpoint:
        asker = Peer(endpoint)
        server = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_TORCH, endpoint, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: asker.ask(StatusRequest(), Status).external == "torchless")
        trainer = Trainer(endpoint)
        trainer.hear(Welcome)
        trainer.train(1, 3)
        printed, _ = server.communicate(timeout=PATIENCE_MILLISECONDS / 1000)
        wait_until(lambda: sum(job.trials for job in asker.ask(StatusRequest(), Status).jobs) == 1)
        trainer.close()
        asker.close()
    assert printed.splitlines() == [
        str(tmp_path / "attune.db"),
        "attune.attach needs PyTorch 1.13 or later: install torch",
    ]


def test_what_the_package_has_is_what_it_says():
    assert set(attune.__all__) <= set(dir(attune))
    for name in attune.__all__:
        assert getattr(attune, name) is not None
    assert callable(attune.adapters.default)
    with pytest.raises(AttributeError, match="module 'attune' has no attribute 'nonsense'"):
        _ = attune.nonsense
