"""attune in a PyTorch trainer: one call before training, one call a step.

handle = attune.attach(model, name="my-run", budget=attune.Budget.steps(10_000), fresh=True)
for x, y in batches:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    handle.step(loss)               # the safe point: reports, applies what was decided
handle.finish(validation_loss)
plain = handle.bake()               # the same outputs, and no trace of attune

`fresh`: nobody has trained these weights. Leave it out for others.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
import uuid
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from attune import distributed, measure
from attune.adapters import Adapter, default
from attune.attention import PASSES_PER_FORWARD, Tuning
from attune.probe import MEASURE_EVERY_AT_FIRST, Probe, is_due
from attune.protocol import ActionRequest
from attune.tuned import TunedModel, unwrapped
from attune.values import (
    METRICS,
    PROFILE_BINS,
    Budget,
    JobSpec,
    Observation,
    Outcome,
    Setting,
    Site,
    floats,
)

# A daemon that has said nothing for so long after the start is told to the user, once.
_PATIENCE_SECONDS = 5.0


class Handle:
    """A model's line to the daemon; made by `attach`.

    Without a daemon it keeps the clock and changes nothing. What goes wrong is a warning, each
    once, and never an exception: training goes on. Used from the trainer's thread. As a context
    manager it finishes at the end, as failed where an exception leaves it.
    """

    def __init__(
        self,
        model: nn.Module,
        adapters: Sequence[Adapter],
        job: Callable[[tuple[Site, ...]], JobSpec],
        probe: Callable[[JobSpec, Setting], Probe],
        state: Mapping[str, Any] | None = None,
        fresh: bool = False,
    ) -> None:
        self._tuned = TunedModel(model, adapters)
        try:
            if state is not None:
                self._take_up(state)
            self._job = replace(job(self._tuned.sites), scale_fixed=self._tuned.scale_fixed)
            self._probe = probe(self._job, self._tuned.setting)
        except BaseException:
            self._tuned.detach()
            raise
        self._own(weakref.ref(self))
        self._random = random.Random(self._job.seed)
        self._step = int(state["step"]) if state is not None else 0
        self._compute_seconds = float(state["compute_seconds"]) if state is not None else 0.0
        self._started = time.process_time()
        self._measure_every = MEASURE_EVERY_AT_FIRST
        self._measuring = False
        self._loss_sum: float | Tensor = 0.0  # since the last observation
        self._loss_count = 0
        self._others_seconds = 0.0  # compute of the other ranks, as last told
        self._last_numbers = _placeholder(self._job.heads)
        self._last_observation: Observation | None = None
        self._warned: set[str] = set()
        self._finished = False
        self._removed = False
        if fresh and self._step == 0:
            self._open()
        self._arm()

    @property
    def sites(self) -> tuple[Site, ...]:
        """What is tuned, in the order of the model."""
        return self._job.sites

    @property
    def job(self) -> JobSpec:
        """As it introduces itself to the daemon."""
        return self._job

    @property
    def setting(self) -> Setting:
        """In force at the model."""
        return self._tuned.setting

    @property
    def last_observation(self) -> Observation | None:
        """What was measured last, on rank 0; None before the first measurement."""
        return self._last_observation

    @property
    def steps(self) -> int:
        """Optimiser steps done."""
        return self._step

    @property
    def compute_seconds(self) -> float:
        """Processor seconds of the process in training; see `start_step`."""
        return self._compute_seconds

    @property
    def probe(self) -> Probe:
        """The line to the daemon."""
        return self._probe

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the job: its key, where it stands, and the setting.

        Numbers, texts and lists of numbers alone. `attach(…, state=…)` takes it up.
        """
        setting = self.setting
        return {
            "key": self._job.key,
            "budget": _as_numbers(self._job.budget),
            "step": self._step,
            "compute_seconds": self._compute_seconds,
            "sites": [site.name for site in self.sites],
            "scale": setting.scale.tolist(),
            "gain": setting.gain.tolist(),
            "active": list(setting.active),
        }

    def start_step(self) -> None:
        """Marks the beginning of a step. Optional: without it a step begins where the last ended.

        Call it before the forward pass where evaluation or the like lies between steps, so that it
        does not count as training.
        """
        self._started = time.process_time()

    def step(self, loss: float | Tensor, *, loss_scale: float = 1.0) -> bool:
        """After the optimiser: the safe point. Reports, and applies what the daemon decided.

        With several ranks every rank calls it once a step.

        Args:
            loss: The step's training loss in nats, NaN included; a tensor is read at measured steps
                only, one of several numbers counts by their mean.
            loss_scale: What the loss was multiplied by before its backward pass
                (`GradScaler.get_scale()` before the step's `update()`).

        Returns:
            Whether the setting changed.
        """
        if self._removed or self._finished:
            return False
        self._step += 1
        changed = False
        try:
            value = loss.detach().float().mean() if isinstance(loss, Tensor) else float(loss)
            self._loss_sum = self._loss_sum + value
            self._loss_count += 1
        except Exception as error:
            self._warn(f"{type(error).__name__}: {error}; the loss of this step is left out")
        try:
            changed = self._report(loss_scale)
        except Exception as error:
            self._warn(f"{type(error).__name__}: {error}; training goes on")
        now = time.process_time()
        self._compute_seconds += now - self._started
        self._started = now
        return changed

    def apply(self, setting: Setting) -> str | None:
        """Applies a setting whole or not at all, as an action of the daemon is.

        It takes effect at the next forward. The daemon is not told: for experiments without one.

        Returns:
            What was wrong with it, in one line, or None.
        """
        if self._removed:
            return "the model is not tuned any more: the handle was removed"
        return self._tuned.apply(setting)

    @staticmethod
    def of(model: nn.Module) -> Handle | None:
        """The handle that tunes this model now, if it is still there."""
        for module in unwrapped(model).modules():
            handle = module.handle() if isinstance(module, Tuning) and module.handle else None
            if isinstance(handle, Handle) and handle.tunes(model):
                return handle
        return None

    def stay(self) -> None:
        """Lets the model keep this handle until it is removed, where nobody else may.

        For callbacks: another Trainer takes over the model, when theirs has gone.
        """
        if not self._removed:
            self._own(lambda: self)

    def tunes(self, model: nn.Module) -> bool:
        """Whether this model is the one that is tuned, now."""
        return not self._removed and self._tuned.model is unwrapped(model)

    def finish(
        self,
        validation_loss: float | Tensor | None = None,
        outcome: Outcome = Outcome.FINISHED,
    ) -> None:
        """Says how the job ended; later steps are not reported.

        Args:
            validation_loss: In nats, if there is one.
            outcome: FINISHED or FAILED.
        """
        if self._finished:
            return
        self._finished = True
        for place in self._tuned.places:
            place.tuning.measure_no_more()
        seconds = self._compute_seconds + self._others_seconds
        loss = None
        if validation_loss is not None:
            try:
                loss = _as_float(validation_loss)
            except Exception as error:
                self._warn(f"the validation loss is no number: {type(error).__name__}: {error}")
        try:
            self._probe.finish(outcome, self._step, seconds, loss)
        except Exception as error:
            self._warn(f"{type(error).__name__}: {error}; how the job ended is not reported")
        self._pass_on_complaint()

    def remove(self) -> None:
        """Takes attune out of the model, without what it has tuned; an unfinished job has failed.

        Heads that were skipped take part again, with the weights that they have: the outputs are
        not those of the tuned model. `bake` and `bake_in_place` keep them.
        """
        if self._removed:
            return
        self.finish(outcome=Outcome.FAILED)
        self._removed = True
        self._tuned.detach()
        self._own(None)

    def bake(self) -> nn.Module:
        """A copy of the model with the same outputs (to rounding) that knows nothing of attune.

        Scales are folded into the projections of the queries, gains into those of the outputs.
        Heads that are skipped get an output of 0: their weights stay, because configurations of
        models have one head count for all layers. The model itself is left as it is.

        Raises:
            ValueError: Where a module has no weights that could take it up, naming the module.
        """
        return self._tuned.bake(attached=not self._removed)

    def bake_in_place(self) -> None:
        """As `bake`, but it is the model itself that knows nothing of attune any more.

        The setting is neutral from here on, and a job that nobody has finished has failed. For a
        moment the weights are there twice.

        Raises:
            ValueError: As `bake`; the model is left as it was.
        """
        if self._removed:
            return
        self._tuned.bake_in_place()
        self.finish(outcome=Outcome.FAILED)  # as `remove`, where nobody did
        self._removed = True
        self._own(None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(outcome=Outcome.FINISHED if kind is None else Outcome.FAILED)

    def _own(self, handle: Callable[[], object] | None) -> None:
        for place in self._tuned.places:
            place.tuning.handle = handle

    def _take_up(self, state: Mapping[str, Any]) -> None:
        sites = [site.name for site in self._tuned.sites]
        for place, (before, now) in enumerate(zip_longest(state["sites"], sites)):
            if before != now:
                raise ValueError(
                    f"the checkpoint has {_named(before)} as attention {place} and the model "
                    f"{_named(now)}: the topology changed; attach without `state` to begin anew"
                )
        setting = Setting(floats(state["scale"]), floats(state["gain"]), bytes(state["active"]))
        fault = self._tuned.apply(setting)
        if fault:
            raise ValueError(f"the checkpoint's setting: {fault}")

    def _open(self) -> None:
        """Applies what the daemon decides before the first step.

        Not with several ranks: what one of them was told the others would have to wait for, and the
        model may not be on their devices yet.
        """
        try:
            while not distributed.announced():
                action = self._probe.opening()
                if action is None:
                    break
                self._answer(action)
        except Exception as error:
            self._warn(f"{type(error).__name__}: {error}; training goes on")

    def _report(self, loss_scale: float) -> bool:
        """What is due at a safe point; True where the setting changed."""
        if self._tuned.follow():
            self._probe.resettle(self._tuned.setting)
        if not self._measuring:
            # With several ranks an action waits for the next measured step, which all ranks know.
            if distributed.rank() == 0:
                action = self._probe.poll(self._step, take=not distributed.several())
                self._pass_on_complaint()
                changed = action is not None and self._answer(action)
            else:
                changed = False
            self._arm()
            return changed
        action = self._probe.poll(self._step) if distributed.rank() == 0 else None
        try:
            told = self._report_measured(action, loss_scale)
        except Exception as error:
            if action is not None:  # its daemon waits for an answer
                self._probe.rejected(action, self._step, f"{type(error).__name__}: {error}")
            raise
        else:
            return self._answer(action) if action is not None else self._follow(told)
        finally:
            self._arm()

    def _arm(self) -> None:
        """Lets the next step measure itself where that is due."""
        if distributed.announced():
            due = self._measure_every > 0 and is_due(self._step + 1, self._measure_every)
        else:
            due = self._probe.due(self._step + 1)
        self._measuring = due
        if due:
            draws = [self._random.random() for _ in range(measure.ROWS + measure.SEQUENCES)]
            self._tuned.measure_next(torch.tensor(draws))

    def _report_measured(
        self, action: ActionRequest | None, loss_scale: float
    ) -> distributed.Exchange:
        seconds = time.process_time() - self._started
        numbers = self._tuned.take_numbers(loss_scale)
        forward = sum(place.tuning.seconds for place in self._tuned.places)
        told = distributed.exchange(
            numbers,
            self._mean_loss(),
            min(1.0, PASSES_PER_FORWARD * forward / seconds) if seconds > 0 else 0.0,
            self._compute_seconds + seconds,
            self._probe.measure_every if self._probe.due(1) else 0,  # 0: nobody listens
            action.setting if action is not None else None,
        )
        self._measure_every = told.measure_every
        self._others_seconds = told.compute_seconds - (self._compute_seconds + seconds)
        if distributed.rank() == 0:
            self._observe(told)
        self._pass_on_complaint()
        return told

    def _follow(self, told: distributed.Exchange) -> bool:
        """Applies on the other ranks what rank 0 does."""
        if told.setting is None:
            return False
        fault = self.apply(told.setting)
        if fault:
            self._warn(f"rank {distributed.rank()} cannot apply what rank 0 did: {fault}")
        return fault is None

    def _mean_loss(self) -> float:
        total, count = self._loss_sum, self._loss_count
        self._loss_sum, self._loss_count = 0.0, 0
        return float(total) / count if count > 0 else math.nan

    def _observe(self, told: distributed.Exchange) -> None:
        self._last_numbers = self._complete(told.numbers)
        rows = self._last_numbers
        active = self._tuned.setting.active
        metrics, profile = floats(), floats()
        for head, row in enumerate(rows):
            if active[head]:
                metrics.extend(row[: len(METRICS)])
                profile.extend(row[len(METRICS) : len(METRICS) + PROFILE_BINS])
            else:
                metrics.extend(_ZEROS[: len(METRICS)])
                profile.extend(_ZEROS[:PROFILE_BINS])
        self._last_observation = Observation(
            step=self._step,
            compute_seconds=told.compute_seconds,
            loss=told.loss,
            attention_share=told.share,
            active=active,
            metrics=metrics,
            profile=profile,
        )
        self._probe.observe(self._last_observation)

    def _complete(self, numbers: Tensor) -> list[list[float]]:
        """The numbers by head; where a site did not measure, or not sanely, what it had before."""
        numbers = numbers.cpu().clone()
        importance = numbers[:, measure.IMPORTANCE].abs()  # of adapters that weigh by themselves
        # Half precision overflows there first; the rest of what such a head measured is sound.
        before = torch.tensor(self._last_numbers, device="cpu")[:, measure.IMPORTANCE]
        numbers[:, measure.IMPORTANCE] = torch.where(importance.isfinite(), importance, before)
        overflown: list[bool] = (~importance.isfinite()).tolist()
        rows: list[list[float]] = numbers.tolist()
        sane: list[bool] = numbers.isfinite().all(1).tolist()
        first = 0
        for place in self._tuned.places:
            site, fault = place.tuning.site, place.tuning.fault
            heads = range(first, first + site.heads)
            first += site.heads
            active = self._tuned.setting.active
            # A skipped one keeps its numbers too: it may be switched on where nothing measures.
            stale = [
                head for head in heads if not (active[head] and sane[head] and rows[head][-1] > 0)
            ]
            missing = [head for head in stale if active[head]]
            if any(active[head] and overflown[head] for head in heads):
                self._warn(
                    f"site '{site.name}' measured an importance that is no finite number (an "
                    "overflow in half precision?); its heads keep the one before"
                )
            if fault:
                self._warn(f"site '{site.name}' {fault}")
            elif missing and any(not sane[head] for head in missing):
                self._warn(
                    f"site '{site.name}' measured values that are no finite numbers (an overflow "
                    "in half precision?); its heads keep the measurement before"
                )
            elif missing:
                self._warn(
                    f"site '{site.name}' did not measure: it was not run in training mode with two "
                    "keys to attend to; its heads keep the measurement before"
                )
            for head in stale:
                rows[head] = self._last_numbers[head]
        return rows

    def _answer(self, action: ActionRequest) -> bool:
        fault = self.apply(action.setting)
        if fault:
            self._probe.rejected(action, self._step, fault)
            return False
        self._probe.applied(action, self._step)
        return True

    def _pass_on_complaint(self) -> None:
        complaint = self._probe.take_error()
        if complaint is not None:
            self._warn(complaint)
        if not self._probe.met and self._probe.silent_seconds > _PATIENCE_SECONDS:
            self._warn("no daemon answers; training goes on untuned")

    def _warn(self, text: str) -> None:
        """Once each: lines that differ only in numbers count as one."""
        kind = re.sub(r"\d", "", text)
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"attune: {text}", RuntimeWarning, stacklevel=3)


def _named(site: str | None) -> str:
    return "none" if site is None else f"'{site}'"


_ZEROS = [0.0] * PROFILE_BINS


def _placeholder(heads: int) -> list[list[float]]:
    """Of a head that was never measured: nothing about it gives a reason to act."""
    metrics = dict.fromkeys(METRICS, 0.0) | {"entropy": 0.5, "output_norm": 1.0}
    return [[*metrics.values(), *[1 / PROFILE_BINS] * PROFILE_BINS, 1.0]] * heads


def _optimizer_name(optimizer: Any) -> str:
    """A name as it is; of an optimiser its class, within what others have wrapped around it."""
    if optimizer is None or isinstance(optimizer, str):
        return optimizer or ""
    if isinstance(optimizer, type):
        return optimizer.__name__
    for _ in range(8):  # accelerate's and Lightning's wrappers; torch.distributed.optim's
        inner = getattr(optimizer, "optimizer", None) or getattr(optimizer, "optim", None)
        if not hasattr(inner, "param_groups"):
            break
        optimizer = inner
    return type(optimizer).__name__


def _as_float(number: float | Tensor) -> float:
    return float(number.detach() if isinstance(number, Tensor) else number)


def _as_rate(rate: float | Tensor) -> float:
    try:
        if isinstance(rate, str):
            raise TypeError
        return _as_float(rate)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"learning_rate: it is of type {type(rate).__name__}; use a number, or a tensor of one"
        ) from None


def _expect(what: str, value: object, kind: type, use: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what}: it is of type {type(value).__name__}; use {use}")


_STATE = ("key", "step", "compute_seconds", "sites", "scale", "gain", "active")


def _expect_state(state: Mapping[str, Any]) -> None:
    _expect("state", state, Mapping, "what Handle.state_dict() gave")
    missing = next((what for what in _STATE if what not in state), None)
    if missing is not None:
        raise ValueError(
            f"state: it has no '{missing}'; use what Handle.state_dict() gave, not the model's"
        )


_keys_given: Counter[str] = Counter()


def _key_for(state: Mapping[str, Any] | None, budget: Budget) -> str:
    """Of a resumed job its own, unless it was to be shorter or longer: a job has one budget.

    Else ATTUNE_JOB, with a number from the second job of a process on; else a random one.
    """
    given = os.environ.get("ATTUNE_JOB")
    if state is not None:
        own = str(state["key"])
        if given and own.startswith(given):
            number = own[len(given) :].removeprefix(".") or "1"
            if number.isdecimal():
                _keys_given[given] = max(_keys_given[given], int(number))
        if state.get("budget") in (None, _as_numbers(budget)):
            return own
    if not given:
        return uuid.uuid4().hex
    _keys_given[given] += 1
    number_now = _keys_given[given]
    return given if number_now == 1 else f"{given}.{number_now}"


def _as_numbers(budget: Budget) -> list[float]:
    return [int(budget.kind), budget.amount, budget.price]


def attach(
    model: nn.Module,
    *,
    name: str = "job",
    budget: Budget,
    key: str | None = None,
    seed: int = 0,
    learning_rate: float | Tensor = 0.0,
    optimizer: torch.optim.Optimizer | type | str | None = None,
    policy: str = "",
    endpoint: str | None = None,
    adapters: Sequence[Adapter] | None = None,
    state: Mapping[str, Any] | None = None,
    fresh: bool = False,
) -> Handle:
    """Finds the model's attention and lets the daemon tune it.

    The environment decides where nothing is said: ATTUNE_ENDPOINT (else no daemon), ATTUNE_JOB
    (else a random key; KEY.2, KEY.3 for the next jobs of the same process), ATTUNE_POLICY,
    ATTUNE_KEYS for tcp endpoints. ATTUNE_MODE=off: no daemon, whatever else is said;
    ATTUNE_MODE=offline: a log in ATTUNE_DIR (else ./attune) for
    `attune import`. `attune run -- python train.py` sets what is needed.

    Args:
        model: Any module; DistributedDataParallel and compiled ones too.
        name: Of the job, for people.
        budget: How long it trains: `Budget.steps(n)` or `Budget.compute(seconds)`.
        key: Names the run, also after a restart from a checkpoint; unique.
        seed: Of the run; the sampled rows come from it too.
        learning_rate: The highest of the schedule, a number or a tensor of one; 0 when unknown.
        optimizer: What trains the model, its class or its name ("SGD"); None when unknown. The same
            rate means little to SGD and much to Adam.
        policy: Who is to decide (keep, kmeans, network …); empty: as the daemon is set.
        endpoint: ipc://… or tcp://… of the daemon.
        adapters: How attention is found (default: `attune.adapters.default()`).
        state: Of a run that is resumed, as `Handle.state_dict` gave it: the key unless one is
            given or the budget is another (a run that is made longer goes on as another job), the
            step, and the setting, which counts more than what the model's buffers say.
        fresh: The weights are as they were drawn, trained by nobody: then this waits for what the
            daemon decides before the first step, and applies it (half a second at most where there
            is no daemon, a second more where there is one; not with several ranks). The network
            decides there only where it is told the learning rate and an optimiser other than SGD.
            Without it the weights are taken for trained, and the daemon changes a head at a time.

    Raises:
        TypeError: For an argument that is something else.
        ValueError: For a model without attention, an endpoint, name, budget, learning rate, state
            or ATTUNE_MODE that cannot be used, and a model that is attached already. A daemon that
            does not answer is no error.
            Both come with and without a daemon, with ATTUNE_MODE=off too: what trains here trains
            elsewhere.
    """
    environment = os.environ
    mode = environment.get("ATTUNE_MODE") or "on"
    if mode not in ("on", "off", "offline"):
        raise ValueError(f"ATTUNE_MODE is '{mode}'; use on, off or offline")
    _expect("model", model, nn.Module, "the torch.nn.Module itself")
    _expect("budget", budget, Budget, "attune.Budget.steps(n) or attune.Budget.compute(seconds)")
    for what, text in (("name", name), ("policy", policy)):
        _expect(what, text, str, "a text")
    for what, option in (("key", key), ("endpoint", endpoint)):
        if option is not None:
            _expect(what, option, str, "a text, or None")
    if state is not None:
        _expect_state(state)
    rate = _as_rate(learning_rate)

    def job(sites: tuple[Site, ...]) -> JobSpec:
        return JobSpec(
            key=key or _key_for(state, budget),
            name=name,
            sites=sites,
            budget=budget,
            seed=seed,
            learning_rate=rate,
            policy=policy or environment.get("ATTUNE_POLICY", ""),
            optimizer=_optimizer_name(optimizer),
            fresh=fresh and (state is None or int(state["step"]) == 0),
        )

    def probe(spec: JobSpec, setting: Setting) -> Probe:
        if mode == "off" or distributed.rank() != 0:
            return Probe(spec, setting)
        step = int(state["step"]) if state is not None else 0
        seconds = float(state["compute_seconds"]) if state is not None else 0.0
        if mode == "offline":
            directory = Path(environment.get("ATTUNE_DIR") or "attune")
            return Probe(spec, setting, directory=directory, step=step, compute_seconds=seconds)
        return Probe(
            spec,
            setting,
            endpoint=endpoint or environment.get("ATTUNE_ENDPOINT", ""),
            keys=environment.get("ATTUNE_KEYS", ""),
            step=step,
            compute_seconds=seconds,
        )

    return Handle(model, default() if adapters is None else adapters, job, probe, state, fresh)
