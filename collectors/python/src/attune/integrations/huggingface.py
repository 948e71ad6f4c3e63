"""attune in a Hugging Face `Trainer`.

trainer = Trainer(model, args, ..., callbacks=[AttuneCallback(name="my-run")])
trainer.train()
trainer.save_model()  # a plain model with the outputs of the tuned one

Run it under `attune run -- python train.py`, or with ATTUNE_ENDPOINT set. `fresh=True` where the
model is trained from scratch.
"""

from __future__ import annotations

import math
import warnings
import weakref
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from attune.handle import Handle, attach
from attune.integrations import let_go
from attune.values import Budget

_EVALUATION = "eval_"
_VALIDATION_LOSS = "eval_loss"


class AttuneCallback(TrainerCallback, ExportableState):
    """Tunes the model while the Trainer trains it.

    The budget is the Trainer's number of optimiser steps. The training loss is the one that the
    model's output carries (`outputs.loss`), over all batches of a step; where it carries none, see
    `watch`. The last `eval_loss` is the job's validation loss; of several datasets the loss that
    `metric_for_best_model` names, else the mean of their losses. A checkpoint of the Trainer keeps
    the job's key, step and setting. When the training has ended the tuning is folded into the
    model's own weights, so that what `save_model` writes is what was trained. (A checkpoint from
    before is one to go on from: its weights are not folded, and `from_pretrained` leaves its tuning
    unread.)

    Args:
        name: Of the job, for people.
        policy: Who is to decide; empty: as the daemon is set.
        writer: A `SummaryWriter` that is told what was measured
            (`attune.integrations.tensorboard`).
        fresh: Nobody has trained the model before its first `train()`: see `attune.attach`.

    Attributes:
        handle: The job while and after it trains; None before.
    """

    def __init__(
        self, name: str = "job", policy: str = "", writer: Any = None, fresh: bool = False
    ) -> None:
        self.handle: Handle | None = None
        self._name = name
        self._policy = policy
        self._writer = writer
        self._fresh = fresh
        self._losses = _Losses()
        self._loss_scale = 1.0  # as the step that runs has it
        self._lossless = False  # and that was said
        self._watched: weakref.ref[Trainer] | None = None
        self._evaluated: dict[str, float] = {}  # the losses of the last evaluation
        self._evaluated_at = 0
        self._validation_loss: float | None = None

    def watch(self, trainer: Trainer) -> None:
        """Takes the training loss from the Trainer itself, once, before its `train()`.

        Needed where the model's outputs carry none: with `label_smoothing_factor`, and a
        `compute_loss` or `compute_loss_func` that does not hand the labels to the model. It is the
        loss that the Trainer logs.
        """
        if self._watched is not None and self._watched() is trainer:
            return
        run = trainer.training_step
        losses = self._losses

        def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = run(*args, **kwargs)
            losses.tell(loss)
            return loss

        self._watched = weakref.ref(trainer)
        trainer.training_step = training_step  # type: ignore[method-assign]

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Attaches to the model; with the state of the checkpoint where there is one."""
        assert model is not None
        self._validation_loss, self._evaluated, self._evaluated_at = None, {}, 0
        states: Any = state.stateful_callbacks  # by class; a list where there are several of it
        saved = (states or {}).get(type(self).__name__) or {}
        if states is not None and not saved:
            # The Trainer of a checkpoint without this callback would miss it when it saves.
            states[type(self).__name__] = {}
        if isinstance(saved, list):
            saved = saved[0]
        # A Trainer that begins has asked its callbacks for their states, the job before included.
        resumed = (saved.get("attributes") or {}).get("resumed") if state.global_step else None
        # A Trainer that trains again begins another job, as does one after an interrupted one.
        let_go(self.handle, Handle.of(model), keep=resumed is None)
        self.handle = attach(
            model,
            name=self._name,
            budget=Budget.steps(state.max_steps),
            seed=args.seed,
            learning_rate=args.learning_rate,
            optimizer=optimizer,
            policy=self._policy,
            state=resumed,
            fresh=self._fresh and state.global_step == 0,
        )
        self.handle.stay()
        self._fresh = False
        self._losses.follow(model)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """The clock begins to run."""
        scaler = getattr(optimizer, "scaler", None)  # accelerate's, in half precision
        self._loss_scale = scaler.get_scale() if scaler is not None else 1.0
        if self.handle is not None:
            self.handle.start_step()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The safe point."""
        if self.handle is None:
            return
        averaged = getattr(args, "average_tokens_across_devices", False)
        loss = self._losses.take(args.world_size if averaged else 1)
        if loss is None:
            self._say_lossless()
        self.handle.step(math.nan if loss is None else loss, loss_scale=self._loss_scale)
        if self._writer is not None:
            from attune.integrations import tensorboard

            tensorboard.write(self._writer, self.handle)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """The validation loss so far; of several datasets each comes by itself."""
        losses = {
            name: value
            for name, value in (metrics or {}).items()
            if name.startswith(_EVALUATION) and name.endswith("_loss")
        }
        if not losses:
            return
        if state.global_step != self._evaluated_at:
            self._evaluated, self._evaluated_at = {}, state.global_step
        self._evaluated |= losses
        named = _EVALUATION + (args.metric_for_best_model or "").removeprefix(_EVALUATION)
        mean = sum(self._evaluated.values()) / len(self._evaluated)
        self._validation_loss = self._evaluated.get(
            _VALIDATION_LOSS, self._evaluated.get(named, mean)
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Says how it ended, and leaves a plain model."""
        self._losses.leave()
        if self.handle is None:
            return
        self.handle.finish(self._validation_loss)
        try:
            self.handle.bake_in_place()
        except Exception as error:
            warnings.warn(
                f"attune: {error}; the model keeps its tuning, and what save_model writes computes "
                "something else",
                RuntimeWarning,
                stacklevel=2,
            )

    def _say_lossless(self) -> None:
        if self._lossless or self.handle is None or not self.handle.probe.due(1):
            return
        self._lossless = True
        warnings.warn(
            "attune: the model's outputs carry no training loss (label smoothing, or a loss of the "
            "Trainer's own?): the job is not tuned; call AttuneCallback.watch(trainer) before "
            "trainer.train()",
            RuntimeWarning,
            stacklevel=3,
        )

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in its checkpoints."""
        resumed = self.handle.state_dict() if self.handle is not None else None
        return {
            "args": {"name": self._name, "policy": self._policy},
            "attributes": {"resumed": resumed},
        }


class _Losses:
    """The losses of one step: those that a model's outputs carry, or that a Trainer tells."""

    def __init__(self) -> None:
        self._hook: Any = None
        self._seen: list[torch.Tensor] = []
        self._told: list[torch.Tensor] = []
        self._shares = False  # they are shares of a sum over the step's batches, not means

    def follow(self, model: nn.Module) -> None:
        self.leave()
        self._seen, self._told = [], []  # what an interrupted step left
        self._hook = model.register_forward_hook(self._see, with_kwargs=True)

    def leave(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def tell(self, loss: torch.Tensor) -> None:
        """A batch's share of the step's loss, on whatever ranks it was averaged."""
        if self._hook is not None:
            self._told.append(loss.detach())

    def take(self, ranks: int) -> torch.Tensor | None:
        """Their mean; None where there was none. Begins anew.

        Args:
            ranks: Over which shares are shares: this process has seen that part of the sum.
        """
        told, self._told = self._told, []
        seen, self._seen = told or self._seen, []
        if not seen:
            return None
        losses = torch.stack([loss.to(seen[0].device) for loss in seen])
        if told:
            return losses.sum()
        return losses.sum() * ranks if self._shares else losses.mean()

    def _see(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if not module.training or not isinstance(loss, torch.Tensor):
            return
        self._seen.append(loss.detach().mean())  # of nn.DataParallel's threads and devices too
        self._shares = kwargs.get("num_items_in_batch") is not None
