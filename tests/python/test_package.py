"""The package as it is installed."""

import re
from pathlib import Path

import attune

ROOT = Path(__file__).resolve().parents[2]


def test_its_version_is_that_of_the_daemon():
    daemon = re.search(r"project\(attune VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())
    project = (ROOT / "collectors" / "python" / "pyproject.toml").read_text()
    package = re.search(r'^version = "(.*)"', project, re.MULTILINE)
    assert attune.__version__ == daemon[1] == package[1]


def test_it_is_typed():
    assert (Path(attune.__file__).parent / "py.typed").exists()
