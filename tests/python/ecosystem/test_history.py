"""The history as pandas data frames, of a job that the real daemon has seen."""

import numpy as np
import pandas as pd
import pytest
from attune.protocol import Bye, Heartbeat, Welcome
from attune.store import HEAT_MAPS, HistoryError, history
from attune.values import Outcome
from attuned import HEADS, JOB, Trainer, attuned


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    with attuned(folder, "--policy", "kmeans") as endpoint:
        trainer = Trainer(endpoint)
        trainer.hear(Welcome)
        trainer.train(1, 30)
        trainer.say(Bye(Outcome.FINISHED, 30, 30.0, 4.0))
        trainer.ask(Heartbeat(30), object)  # the job's end is on disk by now
        trainer.close()
    return history(folder)


def test_jobs_have_the_columns_of_their_view_and_times_that_pandas_knows(past):
    jobs = past.jobs()
    assert len(jobs) == 1
    job = jobs.iloc[0]
    assert (job["name"], job["outcome"], job["trials"], job["heads"]) == ("test", "finished", 5, 8)
    assert job["validation_loss"] == 4.0
    assert job["seed"] == JOB.seed
    assert isinstance(job["started_at"], pd.Timestamp)
    assert job["started_at"].timestamp() == pytest.approx(job["started"], abs=1)


def test_trials_are_chosen_by_job_decider_and_outcome(past):
    assert list(past.trials()["window"]) == [0, 1, 2, 3, 4]
    assert list(past.trials(1, decider="kmeans", ack="none")["trial"]) == [1, 2, 3, 4, 5]
    assert past.trials(2).empty
    assert past.trials(decider="network").empty


def test_anomalies_have_their_columns_where_there_are_none(past):
    assert list(past.anomalies()) == [
        "job",
        "site",
        "head",
        "kind",
        "first_step",
        "last_step",
        "severity",
    ]
    assert past.anomalies(1).empty


def test_a_heat_map_has_a_row_for_each_head_and_a_column_for_each_window(past):
    entropy = past.heat_map(1)
    assert entropy.shape == (HEADS, 5)
    assert list(entropy.columns) == [3, 5, 10, 20, 30]
    assert entropy.index[5] == ("second", 1)
    assert np.allclose(entropy, 0.6)
    assert np.allclose(past.heat_map(1, "largest_logit"), 3.0)
    for metric in HEAT_MAPS:
        assert past.heat_map(1, metric).notna().all(axis=None)


def test_what_a_heat_map_cannot_show_is_refused(past):
    with pytest.raises(ValueError, match="no metric 'colour'; use one of entropy"):
        past.heat_map(1, "colour")
    with pytest.raises(HistoryError, match="has no job 9"):
        past.heat_map(9)


def test_questions_of_ones_own_are_answered_and_writing_is_refused(past):
    assert past.sql("SELECT count(*) AS n FROM history_trials WHERE job = ?", [1])["n"][0] == 5
    with pytest.raises(HistoryError, match="readonly"):
        past.sql("DELETE FROM jobs")
    with pytest.raises(HistoryError, match="no such table"):
        past.sql("SELECT * FROM dreams")
