"""Jobs trained for real as a Gymnasium environment: its contract, its sums, a short PPO run."""

import gc
import warnings

import attune.gym
import gymnasium
import numpy as np
import pytest
from attune.gym import EpisodeError
from attune.private import DaemonError
from attune.store import History
from attuned import BIN
from gymnasium.utils.env_checker import check_env as check_by_gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_by_stable_baselines

# Two jobs of about a processor second, of two sites with two and four heads.
SUITE = f"""
command = ["{BIN}/attune-demo-lm", "--data", "sums", "--layers", "2", "--width", "16",
           "--heads", "{{heads}}", "--context", "32", "--batch", "8", "--budget-seconds", "1",
           "--evaluate-every", "1", "--seed", "{{seed}}"]
[parameters]
heads = [2, 4]
[daemon]
windows = 8
measure-every = 1
"""
SIZES = {"max_heads": 10, "max_sites": 3}


@pytest.fixture
def suite(tmp_path, monkeypatch):
    if not (BIN / "attuned").exists():
        pytest.skip(f"no attuned in {BIN}; build it, or set ATTUNE_BIN_DIR")
    monkeypatch.setenv("ATTUNE_BIN_DIR", str(BIN))
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def env(suite, tmp_path):
    env = attune.gym.make(suite, directory=tmp_path / "house", **SIZES)
    yield env
    env.close()


def keep_all(env):
    return np.full(env.action_space.shape, 2)


def test_the_environment_checkers_have_nothing_to_say(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Advice for policies that take vectors alone; MultiInputPolicy flattens by itself.
        warnings.filterwarnings("ignore", ".*unconventional shape")
        check_by_stable_baselines(env)
        check_by_gymnasium(env, skip_render_check=True)


def test_gymnasium_makes_it_by_name(suite):
    env = gymnasium.make("attune/Tuning-v0", suite=suite, **SIZES)
    assert env.unwrapped.max_heads == 10
    env.close()


def test_a_directory_serves_the_next_environment_of_the_process_too(suite, tmp_path):
    for _ in range(2):
        env = attune.gym.make(suite, directory=tmp_path / "house", **SIZES)
        env.reset(options={"job": 0})
        env.close()


def test_an_environment_that_is_dropped_leaves_nothing_behind(suite):
    env = attune.gym.make(suite, **SIZES)
    env.reset(options={"job": 0})
    directory = env._house.directory
    assert directory.exists()
    del env
    gc.collect()
    assert not directory.exists()


def test_an_observation_is_padded_with_zeros_behind_the_jobs_heads(env):
    observation, info = env.reset(options={"job": 0})
    assert observation["tokens"].shape == (10, 29)
    assert list(observation["present"]) == [1] * 4 + [0] * 6
    assert observation["tokens"][:4].any(axis=1).all()
    assert not observation["tokens"][4:].any()
    assert np.array_equal(observation["site"].argmax(axis=1)[:4], [0, 0, 1, 1])
    assert observation["scale_open"].sum() == 4 * 5
    assert info["window"] == 0
    observation, _ = env.reset(options={"job": 1})
    assert observation["present"].sum() == 8


def test_an_episode_ends_with_its_job_and_its_rewards_are_the_jobs(env, tmp_path):
    _, info = env.reset(options={"job": 1})
    total, terminated, steps = 0.0, False, 0
    while not terminated:
        _, reward, terminated, truncated, info = env.step(keep_all(env))
        assert not truncated
        total += reward
        steps += 1
    assert info["outcome"] == "finished"
    assert 1 <= steps <= 9  # 8 windows, the first in three, none to decide after the last
    history = History(tmp_path / "house")
    (earned,) = history.rows("SELECT sum(reward) FROM history_trials")[0]
    assert total == pytest.approx(earned)
    assert history.rows("SELECT DISTINCT decider FROM history_trials WHERE decider = 'external'")


def test_choices_become_actions_and_closed_ones_keep(env, tmp_path):
    env.reset(options={"job": 0})
    action = keep_all(env)
    action[env.max_heads] = 0  # the first site's heads are halved
    action[env.max_heads + 1] = 4  # the second site's cannot be doubled: all are active
    observation, *_, info = env.step(action)
    assert info["closed_choices"] == 1
    why, active = History(tmp_path / "house").rows(
        "SELECT why, active_heads FROM history_trials WHERE decider = 'external' LIMIT 1"
    )[0]
    assert active == 3
    assert why == "a step of attune.gym"
    assert observation["present"].sum() == 4


def test_masks_say_what_is_open_and_leave_padding_to_keep(env):
    env.reset(options={"job": 0})
    masks = env.action_masks()
    assert masks.shape == (5 * (10 + 3),)
    scale, count = masks[:50].reshape(10, 5), masks[50:].reshape(3, 5)
    assert scale[:4].all()
    assert scale[4:].sum() == 6
    assert count[0].tolist() == [True, False, True, False, False]
    assert count[2].tolist() == [False, False, True, False, False]


def test_a_seed_chooses_the_same_jobs_again(env):
    first = [env.reset(seed=5)[0]["present"].sum(), env.reset()[0]["present"].sum()]
    again = [env.reset(seed=5)[0]["present"].sum(), env.reset()[0]["present"].sum()]
    assert first == again


def test_ppo_of_stable_baselines_learns_a_few_steps(env, monkeypatch, tmp_path):
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path))
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu")
    model.learn(total_timesteps=16)
    assert model.num_timesteps == 16


def test_a_job_that_is_larger_than_the_environment_says_how_large_to_make_it(suite):
    env = attune.gym.make(suite, max_heads=4, max_sites=1)
    with pytest.raises(EpisodeError, match=r"has 8 heads in 2 sites; .*max_heads=8, max_sites=2"):
        env.reset(options={"job": 1})
    env.close()


def test_a_job_that_ends_at_once_is_named_with_its_last_words(suite):
    suite.write_text('command = ["sh", "-c", "echo no data; exit 3"]')
    env = attune.gym.make(suite, **SIZES)
    with pytest.raises(EpisodeError, match=r"job 'seed 0' ended without a question: .*: no data"):
        env.reset()
    env.close()


def test_a_job_that_cannot_be_started_and_one_that_there_is_not_are_refused(suite):
    suite.write_text('command = ["./no-such-trainer"]')
    env = attune.gym.make(suite, **SIZES)
    with pytest.raises(EpisodeError, match="cannot be started"):
        env.reset()
    with pytest.raises(EpisodeError, match="has jobs 0 to 0, not 7"):
        env.reset(options={"job": 7})
    with pytest.raises(EpisodeError, match="reset begins one"):
        env.step(keep_all(env))
    env.close()


def test_without_attuned_the_error_says_where_it_was_looked_for(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTUNE_BIN_DIR", str(tmp_path))
    env = attune.gym.make(suite, **SIZES)
    with pytest.raises(DaemonError, match=f"no attuned in {tmp_path}"):
        env.reset()
    env.close()
