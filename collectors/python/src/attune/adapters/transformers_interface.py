"""Attention of Hugging Face transformers (4.48 and later), through its attention interface.

Every attention function that is registered there, and the eager one of each modeling file in use,
is put behind one that looks whether the module that calls has a tuning. Configurations and masks
stay as they are. Projections are the model's own, so inactive heads are cut out before the kernel.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from attune.adapters import NAME, UNKNOWN_CONTEXT, NotReadyError, fold, outputs_of
from attune.adapters.patches import Claim, Patch
from attune.attention import Tuning, _compiling
from attune.values import Setting, Site, SiteKind

_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
_EAGER = "eager_attention_forward"  # "simple_…" and "vision_…" in some files
# Of the queries, in one file or another: what is folded into their projection it takes out again.
_QUERY_NORM = re.compile("(q|qk|query)_?(layer_?)?norm")
# How norms before the kernel begin; others may stand between the heads and their projection.
_BEFORE_KERNEL = ("q", "k", "v")
# Parameters of a module's own that its kernel reads beside the logits, not added to the queries.
_BESIDE_LOGITS = ("sinks",)

# Arguments of a kernel that hide keys in a way that the measurement does not know.
_PACKED, _WINDOW = "cu_seq_lens_q", "sliding_window"

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


class _Ungrouped:
    """The calling module as its kernel sees it where every query head has its own key head."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _tuned(function: AttentionFunction) -> AttentionFunction:
    """The attention function behind one that applies the calling module's tuning, if it has one."""

    def tuned_attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        tuning = module._modules.get(NAME)
        if tuning is None:
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        return _attend(
            cast(Tuning, tuning), function, module, query, key, value, attention_mask, args, kwargs
        )

    tuned_attention.__wrapped__ = function  # type: ignore[attr-defined]
    return tuned_attention


def _attend(
    tuning: Tuning,
    function: AttentionFunction,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    if not tuning.fits(query.shape[1], key.shape[1]):
        return function(module, query, key, value, mask, *args, **kwargs)
    timed = tuning.measuring and tuning.training and not _compiling()
    start = time.process_time() if timed else 0.0
    plan = tuning.plan()
    groups = tuning.site.heads // key.shape[1]
    caller: Any = module
    if plan.active is not None:
        query = query.index_select(1, plan.active)
        shared = plan.active if groups == 1 else plan.active // groups
        key, value = key.index_select(1, shared), value.index_select(1, shared)
        mask = tuning.cut_mask(mask, plan.active)
        if isinstance(kwargs.get("position_bias"), Tensor):
            bias = tuning.cut_mask(kwargs["position_bias"], plan.active)
            kwargs = {**kwargs, "position_bias": bias}
        if isinstance(kwargs.get("head_mask"), Tensor):
            of_heads = kwargs["head_mask"]  # [heads], or as it broadcasts to the weights
            if of_heads.dim() == 1:
                of_heads = of_heads.index_select(0, plan.active)
            kwargs = {**kwargs, "head_mask": tuning.cut_mask(of_heads, plan.active)}
        if groups > 1:
            caller = _Ungrouped(module)
    if plan.scale is not None:
        query = query * plan.scale.to(query.dtype)
    output, weights = function(caller, query, key, value, mask, *args, **kwargs)
    if plan.gain is not None:
        output = tuning.weigh(output, plan.gain.squeeze(-1))  # [batch, queries, A, width]
    if timed:
        tuning.took(time.process_time() - start)
    if tuning.measuring and tuning.training:
        _record(tuning, function, module, query, key, output, mask, args, kwargs)
    if plan.active is None:
        return output, weights
    if weights is not None:
        weights = tuning.restore(weights, plan.active, 1)
    return tuning.restore(output, plan.active, 2), weights


def _is_windowed(window: Any, mask: Tensor | None, keys: int) -> bool:
    """Whether the kernel hides keys that neither the mask nor causality hides."""
    return isinstance(window, int) and keys > window and (mask is None or mask.dim() == 2)


def _record(
    tuning: Tuning,
    function: AttentionFunction,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    output: Tensor,
    mask: Tensor | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    scaling = kwargs.get("scaling", args[0] if args and isinstance(args[0], float) else None)
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    causal = kwargs.get("is_causal")
    if causal is None:
        causal = bool(getattr(module, "is_causal", True))  # as the interface takes it
    # A mask of all pairs says by itself what is hidden; one of keys alone is flash attention's.
    bias = kwargs.get("position_bias")
    if mask is not None and not isinstance(mask, Tensor):
        tuning.leave_unmeasured("its kernel takes a mask that attune cannot read")
        return
    if kwargs.get(_PACKED) is not None:
        tuning.leave_unmeasured("its kernel takes several texts in a row")
        return
    if _is_windowed(kwargs.get(_WINDOW), mask, key.shape[2]):
        tuning.leave_unmeasured("its kernel hides what lies before a window, and no mask says so")
        return
    if mask is not None and mask.dim() == 4:
        # The GPT-2 of 4.48 hides later keys by itself, whatever it says: its eager mask is of keys
        # alone.
        causal = (
            mask.shape[2] == 1
            and isinstance(module._buffers.get("bias"), Tensor)
            and not getattr(module, "is_cross_attention", False)
        )
        mask = mask[..., : key.shape[2]]
    elif mask is not None:
        mask = mask[:, None, None, -key.shape[2] :].bool()
    if bias is not None:
        bias = bias[..., : key.shape[2]]
        if mask is None:
            mask = bias
        elif mask.dtype == torch.bool:
            mask = bias.masked_fill(~mask, float("-inf"))
        else:
            mask = bias + mask
    causal = causal and query.shape[2] > 1
    # The kernel on scaled_dot_product_attention leaves out the cap that models hand over.
    capped = getattr(function, "__name__", "") != "sdpa_attention_forward"
    softcap = (kwargs.get("softcap") or 0.0) if capped else 0.0
    tuning.record(query, key, output.transpose(1, 2), scaling, mask, causal, softcap)


def _needs(modeling_name: str) -> Iterator[tuple[Hashable, Patch]]:
    """As Claim: the attention functions that modules of a modeling file call."""
    modeling = import_module(modeling_name)
    registry = getattr(modeling, _INTERFACE)
    yield id(registry), lambda: _wrap_registry(registry)
    for name in [name for name in vars(modeling) if name.endswith(_EAGER)]:
        yield (modeling_name, name), functools.partial(_wrap_eager, modeling, name)


def _wrap_registry(registry: Any) -> Callable[[], None]:
    local = getattr(registry, "_local_mapping", registry)  # a plain dict in 4.48
    previous = {name: local.get(name) for name in list(registry)}
    for name in previous:
        if name != "eager":
            registry[name] = _tuned(registry[name])

    def restore() -> None:
        for name, function in previous.items():
            _restore(registry, name, function)

    return restore


def _wrap_eager(modeling: Any, name: str) -> Callable[[], None]:
    original = getattr(modeling, name)
    setattr(modeling, name, _tuned(original))
    return lambda: setattr(modeling, name, original)


def _restore(registry: Any, name: str, function: AttentionFunction | None) -> None:
    if function is not None:
        registry[name] = function
    elif name in getattr(registry, "_local_mapping", {}):
        del registry[name]


def _attribute(module: nn.Module, *names: str) -> int | None:
    """The first of these that the module, or else its configuration, has as a whole number."""
    return _number(module, *names) or _number(getattr(module, "config", None), *names)


def _number(holder: Any, *names: str) -> int | None:
    """The first of these that is a whole number above 0."""
    for name in names:
        value = getattr(holder, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def calls_interface(kind: type[nn.Module]) -> bool:
    """Whether the forward of such modules calls transformers' attention interface."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and _INTERFACE in code.co_names


def _goes_past_interface(module: nn.Module) -> bool:
    """Whether its forward has a kernel of its own beside the interface: GPT-2's and its copies'."""
    kernel = getattr(getattr(module, "config", None), "_attn_implementation", None)
    return bool(getattr(module, "reorder_and_upcast_attn", False)) and kernel == "eager"


class TransformersInterface:
    """Adapter of attention modules that call transformers' attention interface."""

    def find(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Site]]:
        """As Adapter."""
        for name, module in model.named_modules():
            if not calls_interface(type(module)):
                continue
            if _goes_past_interface(module):
                warnings.warn(
                    f"attune: '{name}' is left out: with reorder_and_upcast_attn the eager "
                    f"{type(module).__name__} goes past transformers' attention interface; use "
                    "attn_implementation='sdpa'",
                    stacklevel=2,
                )
                continue
            heads = _attribute(
                module, "num_heads", "num_attention_heads", "n_heads", "n_head", "attention_heads"
            )
            width = _attribute(module, "head_dim", "attention_head_size", "key_value_proj_dim")
            if heads is not None and width is None:
                size = _attribute(module, "embed_dim", "hidden_size", "d_model")
                width = None if size is None or size % heads else size // heads
            if heads is None or width is None:
                warnings.warn(
                    f"attune: '{name}' is left out: how many heads {type(module).__name__} has, "
                    "and how wide, cannot be told; write an adapter (attune.adapters)",
                    stacklevel=2,
                )
                continue
            yield name, module, describe(name, module, heads, width)

    def install(self, module: nn.Module, tuning: Tuning) -> Callable[[], None]:
        """As Adapter."""
        modeling = inspect.unwrap(type(module).forward).__module__
        claim = tuning.claim = Claim(_needs, modeling)
        module.add_module(NAME, tuning)
        # Per-head values of the module's own that its kernel reads: heads cannot be cut out.
        tuning.uncut = hasattr(module, "sinks")

        def restore() -> None:
            delattr(module, NAME)
            claim.end()

        return restore

    def bake(self, module: nn.Module, setting: Setting) -> None:
        """As Adapter."""
        heads = len(setting.scale)
        width = _attribute(
            module, "head_dim", "attention_head_size", "key_value_proj_dim", "head_size"
        )
        if width is None:
            raise ValueError(f"the width of a head of {type(module).__name__} is not known")
        if any(scale != 1 for scale in setting.scale):
            query = _child(module, "q_proj", "query", "q_attn", "q", "q_lin", "c_attn", "qkv")
            if query is None:
                raise ValueError(f"the query projection of {type(module).__name__} is not known")
            if any(_QUERY_NORM.fullmatch(name) for name, _ in module.named_children()):
                raise ValueError(
                    f"{type(module).__name__} normalises its queries: no weight can take up scales"
                )
            if getattr(getattr(module, "config", None), "clip_qkv", None) is not None:
                raise ValueError(
                    f"{type(module).__name__} clips its queries: no weight can take up scales"
                )
            own = [name for name, _ in module.named_parameters(recurse=False)]
            own = [name for name in own if name not in _BESIDE_LOGITS]
            if own:
                raise ValueError(
                    f"{type(module).__name__} has parameters of its own ({', '.join(own)}) that "
                    "its queries may meet behind their projection"
                )
            if query is not _child(module, "c_attn", "qkv"):
                _expect(query, heads, width, inputs=False)
            elif query is _child(module, "c_attn") and not _has_queries_first(module, query):
                raise ValueError(f"{type(module).__name__} has its queries among keys and values")
            fold(query, setting.scale, width)
        gains = outputs_of(setting)
        if all(gain == 1 for gain in gains):
            return
        output = _child(module, "o_proj", "out_proj", "c_proj", "o", "out_lin", "dense", "Wo")
        value = _child(module, "v_proj", "value", "v", "v_lin")
        norms = [name for name, child in module.named_children() if _is_norm(child)]
        behind = [name for name in norms if not name.startswith(_BEFORE_KERNEL)]
        of_values = [name for name in norms if name.startswith("v")]
        if output is not None and not behind:
            _expect(output, heads, width, inputs=True)
            fold(output, gains, width, inputs=True)
        elif value is not None and _outputs(value) == heads * width and not of_values:
            fold(value, gains, width)  # p · (v g) = (p · v) g, whatever comes behind
        elif output is not None or of_values:
            raise ValueError(
                f"{type(module).__name__} normalises ({', '.join(behind or of_values)}) what its "
                "heads give: no weight can take up gains"
            )
        else:
            raise ValueError(f"the output projection of {type(module).__name__} is not known")


def describe(name: str, module: nn.Module, heads: int, width: int, config: Any = None) -> Site:
    """The site of an attention module of transformers.

    Args:
        name: Of the module in its model.
        module: With its configuration, or without one.
        heads: Of the queries.
        width: Of one head.
        config: Stands for a configuration that the module does not have.
    """
    config = getattr(module, "config", config)
    last = name.rpartition(".")[2].lower()
    cross = bool(getattr(module, "is_cross_attention", False)) or last in (
        "encoder_attn",
        "encdecattention",
        "cross_attn",
    )
    cross = cross or "crossattention" in name.lower() or "Cross" in type(module).__name__
    is_causal = getattr(module, "is_causal", None)
    causal = bool(getattr(module, "is_decoder", False)) if is_causal is None else bool(is_causal)
    names = ("max_position_embeddings", "n_positions", "max_source_positions")
    context = _number(module, *names) or _number(config, *names) or _patches(config)
    kind = SiteKind.CROSS if cross else SiteKind.SELF
    return Site(name, kind, causal and not cross, heads, width, context)


def _patches(config: Any) -> int:
    """What an image model sees: its patches and the class token."""
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if isinstance(image, int) and isinstance(patch, int) and patch > 0:
        return (image // patch) ** 2 + 1
    return UNKNOWN_CONTEXT


def _child(module: nn.Module, *names: str) -> nn.Module | None:
    for name in names:
        child = getattr(module, name, None)
        if isinstance(child, nn.Module):
            return child
    return None


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _has_queries_first(module: nn.Module, projection: nn.Module) -> bool:
    """GPT-2's has all queries, then keys, then values; GPTBigCode's has them by the head."""
    return type(projection).__name__ == "Conv1D" or bool(getattr(module, "multi_query", False))


def _is_plain(projection: nn.Module) -> bool:
    """As `fold` takes it: PEFT's, say, have a weight too, and are neither."""
    return isinstance(projection, nn.Linear) or type(projection).__name__ == "Conv1D"


def _outputs(projection: nn.Module) -> int:
    if not _is_plain(projection):
        raise NotReadyError(f"{type(projection).__name__} is no plain Linear or Conv1D")
    weight = cast(Tensor, projection.weight)
    return int(weight.shape[0] if isinstance(projection, nn.Linear) else weight.shape[1])


def _expect(projection: nn.Module, heads: int, width: int, inputs: bool) -> None:
    """Nothing but the heads in a plain projection: queries may be wider than values."""
    weight = projection.weight
    if not _is_plain(projection) or not isinstance(weight, nn.Parameter):
        return  # `fold` says what is wrong with it
    if not weight.is_floating_point():
        return  # `fold` says what is wrong with it
    has = weight.shape[1 if inputs == isinstance(projection, nn.Linear) else 0]
    if has != heads * width:
        raise ValueError(f"a projection of {has} is not that of {heads} heads of {width} alone")
