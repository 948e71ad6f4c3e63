"""A Python trainer under the real attuned: its trials are in the store, its actions applied."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("ATTUNE_BIN_DIR") or ROOT / "build" / "release" / "bin")
SOURCE = ROOT / "collectors" / "python" / "src"

TRAINER = """
import attune
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
model = torch.nn.Sequential(
    torch.nn.Embedding(16, 16), torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(16, 16)
)
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
with attune.attach(model, name="tiny", budget=attune.Budget.steps(400), fresh=True) as handle:
    changes = 0
    for _ in range(400):
        x = torch.randint(0, 16, (4, 24))
        loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), x.roll(1, 1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        changes += handle.step(loss)
    handle.finish(loss.item())
print(changes, handle.probe.dropped)
"""


def attune(*arguments, **options):
    return subprocess.run(
        [BIN / "attune", *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        **options,
    ).stdout


@pytest.fixture
def environment():
    if not (BIN / "attuned").exists():
        pytest.skip(f"no attuned in {BIN}: build it, or set ATTUNE_BIN_DIR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")}
    return {**kept, "PYTHONPATH": str(SOURCE)}


def test_attune_run_tunes_a_python_trainer_without_other_configuration(tmp_path, environment):
    (tmp_path / "train.py").write_text(TRAINER)
    state = ("--state-directory", tmp_path / "state")
    (tmp_path / "state").mkdir()
    printed = attune(
        "run",
        *state,
        "--policy",
        "kmeans",
        "--",
        sys.executable,
        tmp_path / "train.py",
        env=environment,
    )
    changes = int(printed.split()[0])
    assert changes > 0
    trials = json.loads(attune("trials", *state, "--limit", 100, "--format", "json"))
    assert len(trials) > 10
    applied = [trial for trial in trials if trial["ack"] == "applied"]
    assert len(applied) == changes
    (job,) = json.loads(
        attune("sql", *state, "SELECT name, outcome FROM history_jobs", "--format", "json")
    )
    assert (job["name"], job["outcome"]) == ("tiny", "finished")


def test_attune_import_takes_the_log_of_an_offline_trainer(tmp_path, environment):
    (tmp_path / "train.py").write_text(TRAINER)
    own = {"ATTUNE_MODE": "offline", "ATTUNE_DIR": str(tmp_path / "logs"), "ATTUNE_JOB": "run-9"}
    subprocess.run([sys.executable, tmp_path / "train.py"], check=True, env={**environment, **own})
    (tmp_path / "state").mkdir()
    state = ("--state-directory", tmp_path / "state")
    attune("import", *state, tmp_path / "logs" / "run-9.attune", env=environment)
    (job,) = json.loads(
        attune("sql", *state, "SELECT name, outcome FROM history_jobs", "--format", "json")
    )
    assert (job["name"], job["outcome"]) == ("tiny", "finished")
