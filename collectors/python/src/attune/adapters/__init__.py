"""How attune meets a kind of attention module: one file each, one interface of three methods.

Write an adapter of your own for attention that attune does not know, and hand it to
`attune.attach(model, adapters=[Mine(), *attune.adapters.default()])`:

    class MyAdapter:
        def find(self, model):
            for name, module in model.named_modules():
                if type(module) is MyAttention:
                    yield name, module, attune.Site(
                        name, causal=True, heads=module.heads, head_width=module.width, context=512
                    )

        def install(self, module, tuning):
            module.attune = tuning            # MyAttention.forward asks for it
            return lambda: delattr(module, "attune")

        def bake(self, module, setting):
            attune.adapters.fold(module.query, setting.scale, module.width)

A forward that asks for its tuning computes
`tuning.attend(query, key, value, kernel, scaling=…)` (`attune.attention.Tuning`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

from attune.attention import Tuning
from attune.values import Setting, Site

NAME = "attune"
"""The tuning's name in the module that it is attached to, and so in the state_dict."""

UNKNOWN_CONTEXT = 512
"""Stands for the keys that a module sees where it does not say how many: policies see its order
of magnitude alone."""


class NotReadyError(ValueError):
    """What keeps a module from being baked now can be changed before it is.

    Adapters (PEFT) that are not merged, say; not what its architecture is.
    """


class Adapter(Protocol):
    """What attune must know of a kind of attention module. Methods are called by one thread."""

    def find(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Site]]:
        """The modules of this kind in the model, with their names in it and what they are like.

        One that is of this kind but cannot be tuned is left out with a `warnings.warn` that names
        it.
        """

    def install(self, module: nn.Module, tuning: Tuning) -> Callable[[], None]:
        """Lets the module's forward pass through the tuning, as its child "attune".

        Returns:
            What restores the module exactly.
        """

    def bake(self, module: nn.Module, setting: Setting) -> None:
        """Changes the weights of a module without tuning so that it computes what a tuned one does.

        Args:
            module: A copy: it may be changed.
            setting: One entry for every head of this module.

        Raises:
            ValueError: Where the module's architecture has no weights to take it up. One that takes
                up no scales has its scales left alone: `attach` tries it on a copy whose tensors
                are on the device "meta", without data.
            NotReadyError: Where it could be as soon as something is changed.
        """


def default() -> list[Adapter]:
    """The adapters of attune itself, for what is installed here."""
    from attune.adapters import own, torch_mha

    found: list[Adapter] = [own.OwnAttention(), torch_mha.TorchMultiheadAttention()]
    try:
        from attune.adapters import transformers_classes, transformers_interface
    except ImportError:
        return found
    return [
        *found,
        transformers_interface.TransformersInterface(),
        transformers_classes.TransformersClasses(),
    ]


def fold(
    linear: nn.Module,
    factors: Sequence[float],
    head_width: int,
    *,
    inputs: bool = False,
) -> None:
    """Multiplies the part of a projection that belongs to each head by the head's factor.

    Args:
        linear: torch.nn.Linear, or Conv1D of transformers, whose `weight` is [inputs, outputs].
        factors: One for each head.
        head_width: Outputs (or inputs) of one head.
        inputs: Whether heads lie along the inputs: the output projection.

    Raises:
        NotReadyError: Where it is neither, or its weight is no plain parameter.
        ValueError: Where it is too small.
    """
    weight, bias = linear.weight, getattr(linear, "bias", None)
    transposed = type(linear).__name__ == "Conv1D"
    known = transposed or isinstance(linear, nn.Linear)
    if not known or not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        raise NotReadyError(
            f"{type(linear).__name__} is no plain Linear or Conv1D; merge adapters, remove "
            "parametrizations and quantization first"
        )
    fold_weight(weight, factors, head_width, inputs != transposed)
    if bias is not None and not inputs:
        fold_weight(bias, factors, head_width, False)


def fold_weight(
    weight: torch.Tensor, factors: Sequence[float], head_width: int, columns: bool
) -> None:
    """As `fold`, on a weight [outputs, inputs] or bias [outputs]; `columns`: along the inputs."""
    if not isinstance(weight, nn.Parameter):  # what is computed anew each time takes nothing up
        raise NotReadyError("a weight is no plain parameter; remove parametrizations first")
    factor = torch.tensor(list(factors), device=weight.device).repeat_interleave(head_width)
    along = 1 if columns else 0
    if weight.shape[along] < factor.numel():
        raise ValueError(
            f"a projection of {weight.shape[along]} does not hold {len(factors)} heads of "
            f"{head_width}"
        )
    with torch.no_grad():
        part = weight.narrow(along, 0, factor.numel())
        rest = weight.dim() - 1
        part.mul_(factor if columns else factor.view(-1, *[1] * rest))


def outputs_of(setting: Setting) -> list[float]:
    """The gain of every head, 0 for one that is skipped."""
    return [
        gain if active else 0.0 for gain, active in zip(setting.gain, setting.active, strict=False)
    ]
