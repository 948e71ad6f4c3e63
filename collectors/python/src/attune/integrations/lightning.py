"""attune in a Lightning `Trainer`.

callback = AttuneCallback(name="my-run")
trainer = L.Trainer(max_steps=10_000, callbacks=[callback])
trainer.fit(module, data)
plain = callback.handle.bake()

Run it under `attune run -- python train.py`, or with ATTUNE_ENDPOINT set. `fresh=True` where the
module is trained from scratch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from attune.adapters import NAME
from attune.handle import Handle, attach
from attune.integrations import let_go
from attune.values import Budget, Outcome, Setting, floats

_UNFOLDED = "attune_unfolded"  # in a checkpoint: the weights before the tuning was folded in


class AttuneCallback(Callback):
    """Tunes the module while the Trainer fits it.

    The budget is the Trainer's number of optimiser steps; one that has none (`max_epochs=-1`)
    needs `budget`. The training loss is what `training_step` returns, over all batches of a step.
    Checkpoints hold the weights of the plain module with the outputs of the tuned one, so that they
    load anywhere; what it takes to go on (the job's key, step and setting, and the weights that the
    tuning is folded into as they were) stands beside them. (Lightning asks no callback where
    `save_weights_only` is set: such a checkpoint has the weights unfolded and the buffers of the
    tuning, which a plain module refuses.)

    Args:
        name: Of the job, for people.
        policy: Who is to decide; empty: as the daemon is set.
        learning_rate: The highest of the schedule; None: the highest that an optimiser has.
        budget: Of the job; None: the Trainer's steps.
        validation_loss: Name of the logged metric that is the job's validation loss, in nats.
        writer: A `SummaryWriter` that is told what was measured
            (`attune.integrations.tensorboard`).
        fresh: Nobody has trained the module before its first fit: see `attune.attach`.

    Attributes:
        handle: The job while and after it trains; None before.
    """

    def __init__(
        self,
        name: str = "job",
        policy: str = "",
        learning_rate: float | None = None,
        budget: Budget | None = None,
        validation_loss: str = "val_loss",
        writer: Any = None,
        fresh: bool = False,
    ) -> None:
        self.handle: Handle | None = None
        self._name = name
        self._policy = policy
        self._learning_rate = learning_rate
        self._budget = budget
        self._metric = validation_loss
        self._writer = writer
        self._fresh = fresh
        self._resumed: dict[str, Any] | None = None
        self._fits = False  # the checkpoint that is loaded is one to go on from
        self._unfolded: dict[str, Any] = {}  # of that checkpoint
        self._looks_at_tuned = False  # it is loaded into the module that is tuned
        self._losses: list[torch.Tensor] = []
        self._loss_scale = 1.0  # as the step that runs has it
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attaches to the module, after its checkpoint was loaded."""
        resumed, self._resumed = self._resumed, None
        # A Trainer that fits again begins another job; so does another Trainer with the module.
        let_go(self.handle, Handle.of(pl_module), keep=resumed is None)
        self.handle = None
        unfolded, self._unfolded = self._unfolded, {}
        budget = self._budget
        if budget is None:
            steps = trainer.estimated_stepping_batches
            if not 0 < steps < float("inf"):
                warnings.warn(
                    "attune: the Trainer does not say how many steps it will make: the job is not "
                    "tuned; give AttuneCallback a budget, as Budget.steps(10_000)",
                    stacklevel=2,
                )
                return
            budget = Budget.steps(int(steps))
        rates = [
            (group.get("initial_lr", group["lr"]), one)  # before a warm-up scales it down
            for one in trainer.optimizers
            for group in one.param_groups
        ]
        highest, optimizer = max(rates, key=lambda of: of[0], default=(0.0, None))
        rate = highest if self._learning_rate is None else self._learning_rate
        if unfolded:
            pl_module.load_state_dict(unfolded, strict=False)
        self.handle = attach(
            pl_module,
            name=self._name,
            budget=budget,
            learning_rate=rate,
            optimizer=optimizer,
            policy=self._policy,
            state=resumed,
            fresh=self._fresh and trainer.global_step == 0,
        )
        self.handle.stay()
        self._fresh = False
        self._steps = trainer.global_step
        self._losses = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The clock begins to run."""
        if self.handle is not None and not self._losses:
            scaler = getattr(trainer.precision_plugin, "scaler", None)  # in half precision
            self._loss_scale = scaler.get_scale() if scaler is not None else 1.0
            self.handle.start_step()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: torch.Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The safe point, where the optimiser made its step with this batch."""
        if self.handle is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        # What training_step returned comes back divided by the batches of a step.
        if isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach() * trainer.accumulate_grad_batches)
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        mean = torch.stack(self._losses).mean() if self._losses else float("nan")
        self._losses = []
        self.handle.step(mean, loss_scale=self._loss_scale)
        if self._writer is not None:
            from attune.integrations import tensorboard

            tensorboard.write(self._writer, self.handle)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how it ended."""
        if self.handle is not None:
            loss = trainer.callback_metrics.get(self._metric)
            self.handle.finish(float(loss) if loss is not None else None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """It failed."""
        if self.handle is not None:
            self.handle.finish(outcome=Outcome.FAILED)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Folds the tuning into the weights; what they were before is kept beside them."""
        weights = checkpoint["state_dict"]
        for name in [name for name in weights if f".{NAME}." in f".{name}"]:
            del weights[name]
        if self.handle is None or not self.handle.tunes(pl_module):
            return
        if self.handle.setting.is_neutral:
            return
        try:
            # A weight that goes by several names is in the checkpoint under each of them.
            own = dict(pl_module.named_parameters(remove_duplicate=False))
            baked = self.handle.bake().named_parameters(remove_duplicate=False)
            changed = {name: one for name, one in baked if not torch.equal(own[name], one)}
            if any(not torch.equal(weights[name], own[name]) for name in changed):
                raise ValueError("another callback has put other weights into the checkpoint")
        except Exception as error:
            warnings.warn(
                f"attune: {error}; its checkpoints have the weights without the tuning",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        checkpoint[_UNFOLDED] = {name: weights[name] for name in changed}
        weights.update({name: one.detach() for name, one in changed.items()})

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps of the job."""
        return {"job": self.handle.state_dict() if self.handle is not None else None}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Comes between the weights and `load_state_dict`: who tunes has them unfolded."""
        self._fits = trainer.state.fn == TrainerFn.FITTING
        self._looks_at_tuned = self.handle is not None and self.handle.tunes(pl_module)
        unfolded = checkpoint.get(_UNFOLDED, {})
        if self._fits:
            self._unfolded = unfolded
        elif self._looks_at_tuned:
            pl_module.load_state_dict(unfolded, strict=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Comes before `on_train_start`; or the weights are only looked at, tuned as they were."""
        job = state_dict["job"]
        if self._fits:
            self._resumed = job
        elif job is not None and self.handle is not None and self._looks_at_tuned:
            scale, gain = floats(job["scale"]), floats(job["gain"])
            fault = self.handle.apply(Setting(scale, gain, bytes(job["active"])))
            if fault:
                raise ValueError(f"the checkpoint's setting: {fault}")
