"""Histories that cannot be read are refused in one line; where the history is."""

import sqlite3
import sys

import pytest
from attune.store import SCHEMA, History, HistoryError, history
from attuned import ROOT, attuned


def store(path, application=0x6174746E, schema=SCHEMA):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {application}")
    connection.execute(f"PRAGMA user_version = {schema}")
    connection.close()
    return path


def refusal(path):
    with pytest.raises(HistoryError) as error:
        history(path)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_a_missing_history_is_refused_with_what_makes_one(tmp_path):
    assert "attuned makes it" in refusal(tmp_path / "attune.db")
    assert "attuned makes it" in refusal(tmp_path)  # a state directory without one


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "attune.db"
    path.write_text("dear diary, " * 100)
    assert "is no history of attune: file is not a database" in refusal(path)


def test_a_database_of_another_program_is_refused(tmp_path):
    assert "of another program" in refusal(store(tmp_path / "a.db", application=1))


def test_another_schema_is_refused_with_both_versions(tmp_path):
    newer = refusal(store(tmp_path / "new.db", schema=SCHEMA + 1))
    assert f"has schema {SCHEMA + 1} and this attune reads {SCHEMA}; install a newer" in newer
    assert "start its attuned once" in refusal(store(tmp_path / "old.db", schema=SCHEMA - 1))


def test_the_schema_is_the_one_that_the_daemon_writes():
    migrations = sorted((ROOT / "store" / "migrations").glob("[0-9]*.sql"))
    assert int(migrations[-1].stem) == SCHEMA


def test_the_history_of_a_daemon_that_runs_is_found_in_its_state_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    with attuned(tmp_path):
        assert isinstance(history(), History)
        assert history(str(tmp_path)).path == tmp_path / "attune.db"


def test_the_default_is_where_the_daemon_keeps_it(tmp_path, monkeypatch):
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert str(tmp_path / "state/attune/attune.db") in refusal_of_default()
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(tmp_path / "home/.local/state/attune/attune.db") in refusal_of_default()


def refusal_of_default():
    with pytest.raises(HistoryError) as error:
        history()
    return str(error.value)


def test_without_pandas_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        history(store(tmp_path / "attune.db")).jobs()
