"""The jobs of a suite: a sweep's file (`agent/sweep/README.md`) read for one job after another.

What makes jobs is read: command, directory, seeds, [parameters], [[case]], [environment], and
[daemon]. What makes a sweep of them (policies, twins, limits, halving, bars) is left out.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


# As a sweep reads it: `${NAME}` is the environment's, and other braces are what they are.
_PLACEHOLDER = re.compile(r"(?<!\$)\{([\w.-]+)\}", re.ASCII)


class SuiteError(ValueError):
    """A suite that cannot be used; one line that says which file, where and why."""


@dataclass(frozen=True)
class SuiteJob:
    """One job of a suite.

    Attributes:
        parameters: What tells it from the others, with its seed.
        command: Word by word; `{directory}` stands for a folder of its own.
        environment: Beyond that of the process; placeholders likewise.
        directory: In which it starts.
    """

    parameters: Mapping[str, object]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.parameters.items())


@dataclass(frozen=True)
class Suite:
    """The jobs of a file, no two alike, and the settings of their daemon (`attuned --help`)."""

    path: Path
    jobs: tuple[SuiteJob, ...]
    daemon: Mapping[str, str]


def read_suite(path: str | Path) -> Suite:
    """Reads a sweep's file.

    Raises:
        SuiteError: For a file that cannot be read, is no TOML, or has no command; for ranges,
            which only a sweep draws from; for a placeholder that is no parameter.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise SuiteError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: {error}") from None
    command = table.get("command")
    if not isinstance(command, list) or not command:
        raise SuiteError(f"{path}: there is no command; give a list of words")
    seeds = table.get("seeds", [0])
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    directory = (path.parent / table.get("directory", ".")).resolve()
    jobs: dict[object, SuiteJob] = {}
    for parameters in _combinations(path, table):
        for seed in seeds:
            values = {**parameters, "seed": seed}
            known = {**values, "run": len(jobs) + 1}
            words = tuple(_fill(path, str(word), known) for word in command)
            environment = {
                name: _fill(path, str(value), known)
                for name, value in table.get("environment", {}).items()
            }
            key = (words, tuple(environment.items()))
            jobs.setdefault(key, SuiteJob(values, words, environment, directory))
    daemon = {name: _word(value) for name, value in table.get("daemon", {}).items()}
    return Suite(path, tuple(jobs.values()), daemon)


def _combinations(path: Path, table: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Every case with every value of the parameters; who decides is no part of a job."""
    lists = {}
    for name, value in table.get("parameters", {}).items():
        if isinstance(value, dict):
            raise SuiteError(f"{path}: parameters.{name} is a range; a suite has lists and values")
        if name != "policy":
            lists[name] = value if isinstance(value, list) else [value]
    for case in table.get("case", [{}]):
        for values in itertools.product(*lists.values()):
            yield {**dict(zip(lists, values, strict=True)), **case}


def _fill(path: Path, text: str, values: Mapping[str, object]) -> str:
    known = {name: _word(value) for name, value in values.items()}
    known["directory"] = "{directory}"

    def value(placeholder: re.Match[str]) -> str:
        name = placeholder[1]
        if name not in known:
            raise SuiteError(f"{path}: '{text}' has {{{name}}}, which is no parameter")
        return known[name]

    return _PLACEHOLDER.sub(value, text)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
