"""The examples of experiments/python run on real data and give a plain model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "experiments" / "python"


@pytest.mark.parametrize("name", ["bert_sections", "gpt_text", "vit_digits"])
def test_an_example_trains_on_real_data(name, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")}
    environment = {
        **kept,
        "PYTHONPATH": str(ROOT / "collectors" / "python" / "src"),
        "ATTUNE_MODE": "offline",
        "ATTUNE_DIR": str(tmp_path / "logs"),
    }
    ended = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "20"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "logs").iterdir())) == 1


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*_*.py")), ids=lambda file: file.name)
def test_an_example_is_short_and_says_how_it_is_run(file):
    lines = file.read_text().splitlines()
    assert len(lines) < 65
    assert re.search(rf"attune run -- python experiments/python/{file.name}", file.read_text())
