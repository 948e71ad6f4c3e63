"""Attention classes of transformers 4.x that do not call its attention interface.

BERT and T5 in all of 4.x, ViT and Whisper in 4.48. The class's own forward runs, whichever version
it is of: it is handed a view of its module that has the active heads alone, whose query projection
scales and whose heads' outputs come out with their gains. Projections are the model's own, so
inactive heads are cut out before the kernel. A module that is neutral runs as it is.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from types import MethodType
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from attune.adapters import NAME
from attune.adapters.patches import Claim, Patch
from attune.adapters.transformers_interface import (
    TransformersInterface,
    calls_interface,
    describe,
)
from attune.attention import Plan, Tuning, _compiling
from attune.values import Site

Forward = Callable[..., tuple[Any, ...]]


class _Layout(NamedTuple):
    """How a family of classes names what they have.

    Attributes:
        classes: Their names.
        heads: The number of heads.
        width: Of one head.
        size: The number of heads times their width.
        query: The projection of the queries; `key` that of the keys, `value` that of the values.
        output: The projection of the heads' outputs; empty where they are what the forward returns.
        scaled: Whether the logits are divided by √width.
    """

    classes: re.Pattern[str]
    heads: str
    width: str
    size: str
    query: str
    key: str
    value: str
    output: str
    scaled: bool


_BERT = _Layout(
    re.compile("(Bert|Camembert|Electra|Roberta|ViT|XLMRoberta)(Sdpa)?SelfAttention"),
    "num_attention_heads",
    "attention_head_size",
    "all_head_size",
    "query",
    "key",
    "value",
    "",
    True,
)
_T5 = _Layout(
    re.compile("M?T5Attention"),
    "n_heads",
    "key_value_proj_dim",
    "inner_dim",
    "q",
    "k",
    "v",
    "o",
    False,
)
_WHISPER = _Layout(
    re.compile("Whisper(Sdpa)?Attention"),
    "num_heads",
    "head_dim",
    "embed_dim",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    True,
)


class _View:
    """A module as its own forward sees it: with the active heads alone.

    Attributes:
        queries: [batch, A, queries, width], tuned; None before they were projected.
        keys: [batch, A, keys, width]; None where they came out of a cache.
        outputs: [batch, A, queries, width] of the heads, after their gains.
        bias: [1, heads, queries, keys] of T5 where the module made one, of all heads.
    """

    def __init__(self, module: nn.Module, layout: _Layout, tuning: Tuning, plan: Plan) -> None:
        self._module = module
        self._layout = layout
        self._tuning = tuning
        self._plan = plan
        self.queries: Tensor | None = None
        self.keys: Tensor | None = None
        self.outputs: Tensor | None = None
        self.bias: Tensor | None = None
        active = tuning.site.heads if plan.active is None else plan.active.shape[0]
        setattr(self, layout.heads, active)
        setattr(self, layout.size, active * tuning.site.head_width)
        setattr(self, layout.query, self._project_queries)
        setattr(self, layout.key, self._project_keys)
        setattr(self, layout.value, self._project_values)
        if layout.output:
            setattr(self, layout.output, self._project_outputs)
        if hasattr(module, "compute_bias"):
            self.compute_bias = self._compute_bias

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if isinstance(value, MethodType) and value.__self__ is self._module:
            return functools.partial(value.__func__, self)
        return value

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The module's, as `super()` in a forward asks for; its own until it has a module."""
        return type(vars(self).get("_module", self))

    def finish(self, flat: Tensor) -> Tensor:
        """[batch, queries, A × width] → [batch, queries, heads × width], with the gains."""
        parts = self._split(flat)
        if self._plan.gain is not None:
            parts = self._tuning.weigh(parts, self._plan.gain.squeeze(-1))
        self.outputs = parts.transpose(1, 2)
        if self._plan.active is not None:
            parts = self._tuning.restore(parts, self._plan.active, 2)
        return parts.flatten(2)

    def _project(self, name: str, x: Tensor) -> Tensor:
        """[batch, length, A, width] of the model's own projection."""
        parts = self._split(getattr(self._module, name)(x))
        return parts if self._plan.active is None else parts.index_select(2, self._plan.active)

    def _project_queries(self, x: Tensor) -> Tensor:
        parts = self._project(self._layout.query, x)
        if self._plan.scale is not None:
            parts = parts * self._plan.scale.squeeze(-1).to(parts.dtype)
        self.queries = parts.transpose(1, 2)
        return parts.flatten(2)

    def _project_keys(self, x: Tensor) -> Tensor:
        parts = self._project(self._layout.key, x)
        self.keys = parts.transpose(1, 2)
        return parts.flatten(2)

    def _project_values(self, x: Tensor) -> Tensor:
        return self._project(self._layout.value, x).flatten(2)

    def _project_outputs(self, x: Tensor) -> Tensor:
        projected: Tensor = getattr(self._module, self._layout.output)(self.finish(x))
        return projected

    def _compute_bias(self, *args: Any, **kwargs: Any) -> Tensor:
        self.bias = cast(Tensor, cast(Any, self._module).compute_bias(*args, **kwargs))
        active = self._plan.active
        return self.bias if active is None else self.bias.index_select(1, active)

    def _split(self, flat: Tensor) -> Tensor:
        return flat.view(*flat.shape[:-1], -1, self._tuning.site.head_width)


def _tuned(forward: Forward, layout: _Layout) -> Forward:
    """The forward of a class behind one that applies the module's tuning, if it has one."""
    code = inspect.unwrap(forward).__code__
    names = code.co_varnames[1 : code.co_argcount]

    @functools.wraps(forward)
    def tuned_forward(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        # A view comes here where one class of the family calls the forward of another.
        tuning = None if isinstance(module, _View) else module._modules.get(NAME)
        if tuning is None:
            return forward(module, *args, **kwargs)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return _attend(forward, layout, module, cast(Tuning, tuning), given)

    return tuned_forward


def _attend(
    forward: Forward, layout: _Layout, module: nn.Module, tuning: Tuning, given: dict[str, Any]
) -> tuple[Any, ...]:
    """Runs the class's forward with these arguments, by their names."""
    heads = getattr(module, layout.heads)
    if not tuning.fits(heads, heads):
        return forward(module, **given)
    plan = tuning.plan()
    measured = tuning.measuring and tuning.training
    if all(part is None for part in plan) and not measured:
        return forward(module, **given)
    timed = measured and not _compiling()
    start = time.process_time() if timed else 0.0
    view = _View(module, layout, tuning, plan)
    result = forward(view, **_cut(given, tuning, plan))
    first = result[0] if layout.output else view.finish(result[0])
    rest = list(result[1:])
    # Behind the output come T5's bias and then, in all of them, the weights where they were wished.
    maps = [i for i, value in enumerate(rest) if isinstance(value, Tensor) and value.dim() == 4]
    bias = None
    if hasattr(module, "compute_bias"):
        place = maps.pop(0)
        bias = rest[place]
        if plan.active is not None:
            rest[place] = _bias_of_all_heads(view, tuning, given, bias)
    if plan.active is not None:
        for i in maps:
            rest[i] = tuning.restore(rest[i], plan.active, 1)
    if timed:
        tuning.took(time.process_time() - start)
    if measured:
        _record(view, layout, module, tuning, given, bias)
    return (first, *rest)


def _cut(given: dict[str, Any], tuning: Tuning, plan: Plan) -> dict[str, Any]:
    """The arguments with the active heads alone."""
    if plan.active is None:
        return given
    cut = dict(given)
    for name in ("position_bias", "head_mask", "layer_head_mask"):
        value = given.get(name)
        if isinstance(value, Tensor):
            one_for_each = value.dim() == 1
            cut[name] = (
                value.index_select(0, plan.active)
                if one_for_each
                else tuning.cut_mask(value, plan.active)
            )
    return cut


def _bias_of_all_heads(view: _View, tuning: Tuning, given: dict[str, Any], part: Tensor) -> Tensor:
    """The bias that T5's next layers take over, whose active heads are others."""
    whole: Tensor | None = given.get("position_bias")
    if whole is not None:
        return whole
    if view.bias is None:  # nothing but the mask, alike for all heads
        return part[:, :1].expand(-1, tuning.site.heads, -1, -1)
    whole = view.bias[:, :, -part.shape[2] :]
    mask: Tensor | None = given.get("mask")
    return whole if mask is None else whole + mask[..., : part.shape[3]]


def _record(
    view: _View,
    layout: _Layout,
    module: nn.Module,
    tuning: Tuning,
    given: dict[str, Any],
    bias: Tensor | None,
) -> None:
    if getattr(module, "position_embedding_type", "absolute") != "absolute":
        tuning.leave_unmeasured("its logits hold relative positions")
        return
    if view.queries is None or view.keys is None or view.outputs is None:
        return
    mask: Any = bias
    if mask is None:
        across = given.get("encoder_hidden_states") is not None
        name = "encoder_attention_mask" if across else "attention_mask"
        mask = given.get(name, given.get("attention_mask"))
    keys = view.keys.shape[2]
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[3] < keys:
            tuning.leave_unmeasured("its kernel takes a mask that attune cannot read")
            return
        mask = mask[..., :keys]
    scaling = tuning.site.head_width**-0.5 if layout.scaled else 1.0
    causal = mask is None and tuning.site.causal and view.queries.shape[2] > 1
    tuning.record(view.queries, view.keys, view.outputs, scaling, mask, causal)


def _needs(kind: Any) -> Iterator[tuple[Hashable, Patch]]:
    """As Claim: the forward that a class of modules has, of its own or inherited."""
    layout = cast(_Layout, _layout_of(kind))
    owner: Any = next(one for one in kind.__mro__ if "forward" in vars(one))
    yield owner, lambda: _wrap_forward(owner, layout)


def _wrap_forward(owner: Any, layout: _Layout) -> Callable[[], None]:
    original = owner.forward
    owner.forward = _tuned(original, layout)

    def restore() -> None:
        owner.forward = original

    return restore


def _layout_of(kind: type[nn.Module]) -> _Layout | None:
    if not kind.__module__.startswith("transformers.") or calls_interface(kind):
        return None
    layouts = (_BERT, _T5, _WHISPER)
    return next((known for known in layouts if known.classes.fullmatch(kind.__name__)), None)


class TransformersClasses(TransformersInterface):
    """Adapter of the classes; baked as those that call the interface."""

    def find(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Site]]:
        """As Adapter."""
        for name, module in model.named_modules():
            layout = _layout_of(type(module))
            if layout is None:
                continue
            heads, width = getattr(module, layout.heads), getattr(module, layout.width)
            query = getattr(module, layout.query)
            outputs = getattr(query, "out_features", heads * width)
            # T5's bias still has the heads that were pruned.
            if outputs != heads * width or getattr(module, "pruned_heads", None):
                warnings.warn(
                    f"attune: '{name}' is left out: its projections do not hold {heads} heads of "
                    f"{width}, or heads were pruned",
                    stacklevel=2,
                )
                continue
            yield name, module, describe(name, module, heads, width, getattr(model, "config", None))

    def install(self, module: nn.Module, tuning: Tuning) -> Callable[[], None]:
        """As Adapter."""
        claim = tuning.claim = Claim(_needs, type(module))
        module.add_module(NAME, tuning)

        def restore() -> None:
            delattr(module, NAME)
            claim.end()

        return restore
