"""Tuning jobs as a Gymnasium environment, for other libraries of reinforcement learning.

    env = attune.gym.make("experiments/suites/train.toml")
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

An episode is one job of the suite, trained for real under an attuned of the environment's own,
whose policy is external: this process. A step is one window: what the policy sees, its choices,
and what the windows up to the next choice earned, in nats. The rewards of an episode sum to what
the job earned. The governor stands above the choices, as it does above every policy: windows that
it decides itself (a rollback, the freeze before the end) are part of the step before them. While
the agent thinks, the job is stopped.

Needs gymnasium and numpy; Linux.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from attune.decisions import KEEP_SCALE, SCALE_FACTORS, TOKEN_FEATURES, Action, CountChange
from attune.episode import EpisodeError, House, Job
from attune.protocol import Answer, Question
from attune.suite import Suite, read_suite
from attune.values import floats

__all__ = ["EpisodeError", "TuningEnv", "make"]

Observation = dict[str, NDArray[np.float32]]

_ID = "attune/Tuning-v0"
_FEATURES = len(TOKEN_FEATURES)
_LARGEST = 10.0  # features are about -2 to 2
_IMPORTANCE = TOKEN_FEATURES.index("importance")


class TuningEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """The jobs of a suite, one an episode.

    Observations are a dictionary of float32 arrays, zeros behind the job's own heads and sites:

        tokens      [max_heads, 29]         what a policy sees of a head, cut to -10 to 10
        present     [max_heads]             1 where there is a head
        site        [max_heads, max_sites]  1 at the head's site
        scale_open  [max_heads, 5]          1 for each scale choice that a head has
        count_open  [max_sites, 5]          1 for each count change that a site has

    Actions are max_heads scale choices (logits ÷ 4, ÷ 1.5, kept, × 1.5, × 4) and behind them
    max_sites count changes (halve, one less, keep, one more, double). A choice that is not open
    keeps; `action_masks` says which are, in the form of MaskablePPO. Where a site's count changes,
    its heads of highest importance stay.

    `info` has the question's window, step, progress, loss and job, and how many choices were not
    open. `reset(options={"job": 3})` chooses the suite's fourth job; else it is drawn.

    Args:
        suite: The file of a sweep, or one that was read.
        max_heads: Of a job, at most.
        max_sites: Of a job, at most.
        directory: Where the daemon keeps its history (default: a temporary one, removed by close).
        settings: Of the daemon by their names (`attuned --help`), beyond the suite's [daemon].

    Raises:
        SuiteError: For a suite that cannot be used.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (as gymnasium declares it)

    def __init__(
        self,
        suite: str | Path | Suite,
        *,
        max_heads: int = 64,
        max_sites: int = 8,
        directory: str | Path | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.suite = suite if isinstance(suite, Suite) else read_suite(suite)
        self.max_heads, self.max_sites = max_heads, max_sites
        self._shapes = {
            "tokens": (max_heads, _FEATURES),
            "present": (max_heads,),
            "site": (max_heads, max_sites),
            "scale_open": (max_heads, len(SCALE_FACTORS)),
            "count_open": (max_sites, len(CountChange)),
        }
        self.observation_space = spaces.Dict(  # type: ignore[assignment]  # declared of Any
            {name: _box(name, shape) for name, shape in self._shapes.items()}
        )
        self.action_space = spaces.MultiDiscrete(
            [len(SCALE_FACTORS)] * max_heads + [len(CountChange)] * max_sites
        )
        self.spec = EnvSpec(
            _ID,
            entry_point="attune.gym:TuningEnv",
            nondeterministic=True,  # processor seconds are never the same twice
            kwargs={
                "suite": self.suite,
                "max_heads": max_heads,
                "max_sites": max_sites,
                "settings": settings,
            },
        )
        self._settings = {**self.suite.daemon, **(settings or {})}
        self._directory = None if directory is None else Path(directory).absolute()
        self._house: House | None = None
        self._job: Job | None = None
        self._question: Question | None = None
        self._observation = self._nothing()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins the next job, and waits for its first window.

        Raises:
            EpisodeError: For a job that cannot be started, is larger than the environment, or ends
                without a question; for one that there is not.
            DaemonError: Where no attuned can be had.
        """
        super().reset(seed=seed)
        self._end_job()
        number = (options or {}).get("job")
        if number is None:
            number = int(self.np_random.integers(len(self.suite.jobs)))
        if not 0 <= number < len(self.suite.jobs):
            raise EpisodeError(
                f"{self.suite.path} has jobs 0 to {len(self.suite.jobs) - 1}, not {number}"
            )
        if self._house is None:
            self._house = House(self._directory, self._settings)
        self._job = Job(self._house, self.suite.jobs[number])
        self._question = self._job.next_question()
        if self._question is None:
            raise EpisodeError(
                f"{self._job.what} ended without a question: it was too short, or the governor "
                f"kept what there is: {self._job.last_words()}"
            )
        try:
            self._observation = self._observe(self._question)
        except EpisodeError:
            self._end_job()
            raise
        return self._observation, self._info(self._question, closed=0)

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answers for the window, and waits for the next one or the job's end.

        A job that ended by itself terminates the episode; one that was killed truncates it.

        Raises:
            EpisodeError: Where no episode has begun.
        """
        job, question = self._job, self._question
        if job is None or question is None:
            raise EpisodeError("there is no job to decide for; reset begins one")
        chosen, closed = self._choose(question, np.asarray(action))
        job.answer(Answer(question.id, chosen, why="a step of attune.gym"))
        self._question = job.next_question()
        if self._question is not None:
            reward = job.earned(question, self._question)
            self._observation = self._observe(self._question)
            return self._observation, reward, False, False, self._info(self._question, closed)
        finished = job.outcome() in ("finished", "failed")
        reward = job.earned(question, None)
        info = self._info(question, closed)
        info["outcome"] = job.outcome()
        self._end_job()
        return self._observation, reward, finished, not finished, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which choices are open, one after the other as in the action; padding may only keep."""
        scale = self._observation["scale_open"] > 0
        count = self._observation["count_open"] > 0
        scale[:, KEEP_SCALE] = True
        count[:, CountChange.KEEP] = True
        return np.concatenate([scale.ravel(), count.ravel()])

    def close(self) -> None:
        """Ends job and daemon, and removes what was temporary."""
        self._end_job()
        if self._house is not None:
            self._house.close()
            self._house = None

    def _end_job(self) -> None:
        if self._job is not None:
            self._job.close()
        self._job = self._question = None

    def _nothing(self) -> Observation:
        return {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}

    def _observe(self, question: Question) -> Observation:
        heads, sites = question.mask.heads, question.mask.sites
        if heads > self.max_heads or sites > self.max_sites:
            raise EpisodeError(
                f"job {question.key} has {heads} heads in {sites} sites; "
                f"make(…, max_heads={max(heads, self.max_heads)}, "
                f"max_sites={max(sites, self.max_sites)})"
            )
        observation = self._nothing()
        tokens = np.asarray(question.tokens, np.float32).reshape(heads, -1)[:, :_FEATURES]
        observation["tokens"][:heads] = tokens.clip(-_LARGEST, _LARGEST)
        observation["present"][:heads] = 1
        site_of_head = np.repeat(np.arange(sites), [site.heads for site in question.sites])
        observation["site"][np.arange(heads), site_of_head] = 1
        observation["scale_open"][:heads] = _rows(question.mask.scale, heads)
        observation["count_open"][:sites] = _rows(question.mask.count, sites)
        return observation

    def _choose(self, question: Question, action: NDArray[np.int64]) -> tuple[Action, int]:
        """The choices, those that are not open kept, and how many these were."""
        heads, sites = question.mask.heads, question.mask.sites
        scale = action[:heads]
        count = action[self.max_heads : self.max_heads + sites]
        scale_open = _rows(question.mask.scale, heads)[np.arange(heads), scale] > 0
        count_open = _rows(question.mask.count, sites)[np.arange(sites), count] > 0
        importance = self._observation["tokens"][:heads, _IMPORTANCE]
        chosen = Action(
            np.where(scale_open, scale, KEEP_SCALE).astype(np.uint8).tobytes(),
            np.where(count_open, count, CountChange.KEEP).astype(np.uint8).tobytes(),
            floats(importance.tolist()),
        )
        return chosen, int((~scale_open).sum() + (~count_open).sum())

    def _info(self, question: Question, closed: int) -> dict[str, Any]:
        return {
            "job": question.key,
            "window": question.window,
            "step": question.step,
            "progress": question.progress,
            "loss": question.loss,
            "closed_choices": closed,
        }


def make(suite: str | Path | Suite, **arguments: Any) -> TuningEnv:
    """An environment over the suite's jobs; the arguments are those of `TuningEnv`."""
    return TuningEnv(suite, **arguments)


# gymnasium.make("attune/Tuning-v0", suite=…) makes the same.
if _ID not in gymnasium.registry:
    gymnasium.register(_ID, entry_point="attune.gym:TuningEnv", nondeterministic=True)


def _box(name: str, shape: tuple[int, ...]) -> spaces.Box:
    least, most = (-_LARGEST, _LARGEST) if name == "tokens" else (0.0, 1.0)
    return spaces.Box(least, most, shape, np.float32)


def _rows(mask: bytes, rows: int) -> NDArray[np.uint8]:
    return np.frombuffer(mask, np.uint8).reshape(rows, -1)
