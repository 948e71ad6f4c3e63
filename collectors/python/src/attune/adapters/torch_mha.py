"""torch.nn.MultiheadAttention, also inside TransformerEncoderLayer and TransformerDecoderLayer.

Its projections are computed here, so that inactive heads cost nothing at all. Neutral heads give
what torch.nn.functional.multi_head_attention_forward gives, bit for bit. The encoder layer's fast
path, which would read the weights past any forward, is off while a tuning is attached.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attune.adapters import NAME, UNKNOWN_CONTEXT, fold_weight, outputs_of
from attune.attention import Tuning, _compiling
from attune.values import Setting, Site, SiteKind

_HAS_SDPA = hasattr(F, "scaled_dot_product_attention")


class TunedMultiheadAttention(nn.MultiheadAttention):
    """What a torch.nn.MultiheadAttention is while it is tuned: its class changes, nothing else."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch.nn.MultiheadAttention; weights that are not averaged are 0 at skipped heads."""
        _check(self, query, key, value, key_padding_mask, attn_mask, is_causal)
        tuning = cast(Tuning, self._modules[NAME])
        timed = tuning.measuring and tuning.training and not _compiling()
        start = time.process_time() if timed else 0.0
        batched = query.dim() == 3
        q, k, v, index, gain = _project(self, tuning, query, key, value, batched)
        # As in PyTorch the hint stands for the mask where nothing else is needed.
        causal = is_causal and key_padding_mask is None and not need_weights and _HAS_SDPA
        mask = None if causal else _merge_masks(self, q, k, attn_mask, key_padding_mask, index)
        dropout = self.dropout if self.training else 0.0
        heads, weights = _attend(q, k, v, mask, causal, dropout, need_weights)
        if gain is not None:
            heads = tuning.weigh(heads, gain)
        output = self._merge(heads, index)
        if timed:
            tuning.took(time.process_time() - start)
        tuning.record(q, k, heads, q.shape[-1] ** -0.5, mask, causal)
        if not batched:
            output = output.squeeze(1)
        elif self.batch_first:
            output = output.transpose(1, 0)
        if weights is None:
            return output, None
        if index is not None:
            weights = tuning.restore(weights, index, 1)
        if average_attn_weights:
            weights = weights.mean(1) if _HAS_SDPA else weights.sum(1) / self.num_heads
        return output, weights if batched else weights.squeeze(0)

    def _merge(self, heads: Tensor, index: Tensor | None) -> Tensor:
        """[batch, A, queries, width] → [queries, batch, embed_dim]."""
        batch, _, length, width = heads.shape
        flat = heads.permute(2, 0, 1, 3).reshape(length * batch, heads.shape[1] * width)
        weight = self.out_proj.weight
        if index is not None:
            weight = weight.index_select(1, _rows(index, width))
        output = F.linear(flat, weight, self.out_proj.bias)
        return output.view(length, batch, output.shape[-1])


def _check(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    is_causal: bool,
) -> None:
    """Refuses what PyTorch refuses, by the same exceptions."""
    sizes: Any = F._mha_shape_check  # type: ignore[attr-defined]
    sizes(query, key, value, key_padding_mask, attn_mask, module.num_heads)
    for name, mask in (("key_padding_mask", key_padding_mask), ("attn_mask", attn_mask)):
        if mask is None or mask.is_floating_point() or mask.dtype == torch.bool:
            continue
        if _HAS_SDPA or mask is not attn_mask or mask.dtype != torch.uint8:  # 1.13 takes bytes
            raise AssertionError(f"only bool and floating types of {name} are supported")
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")


def _expect_shape(name: str, mask: Tensor, sizes: tuple[int, ...]) -> None:
    if mask.shape != sizes:  # others would be broadcast, or read in another order
        raise RuntimeError(f"The shape of the {name} is {mask.shape}, but should be {sizes}.")


def _rows(index: Tensor, width: int) -> Tensor:
    """The rows of a projection that belong to the heads."""
    within = torch.arange(width, device=index.device)
    return (index.unsqueeze(1) * width + within).flatten()


def _project(
    module: nn.MultiheadAttention,
    tuning: Tuning,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batched: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Queries (scaled), keys and values of the active heads: [batch, A, length, width] each."""
    one_input, one_memory = query is key and key is value, key is value
    if not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    elif module.batch_first:
        query, key, value = (x.transpose(1, 0) for x in (query, key, value))
    plan = tuning.plan()
    width = module.head_dim
    index = plan.active
    rows = None if index is None else _rows(index, width)

    def part(tensor: Tensor | None, block: int = 0, blocks: int = 1) -> Tensor | None:
        # Of block `block` (of queries, keys, values) and the ones behind it.
        if tensor is None:
            return None
        size = module.embed_dim
        if rows is None:
            return tensor[block * size : (block + blocks) * size]
        places = [rows + (block + i) * size for i in range(blocks)]
        return tensor.index_select(0, torch.cat(places))

    bias = module.in_proj_bias
    packed = module.in_proj_weight
    if packed is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        q, k, v = (
            F.linear(x, cast(Tensor, part(w)), part(bias, i))
            for i, (x, w) in enumerate(zip((query, key, value), weights, strict=False))
        )
    elif one_input:
        q, k, v = _packed(query, cast(Tensor, part(packed, 0, 3)), part(bias, 0, 3), 3)
    else:
        q = F.linear(query, cast(Tensor, part(packed, 0)), part(bias, 0))
        if one_memory:
            k, v = _packed(key, cast(Tensor, part(packed, 1, 2)), part(bias, 1, 2), 2)
        else:
            k = F.linear(key, cast(Tensor, part(packed, 1)), part(bias, 1))
            v = F.linear(value, cast(Tensor, part(packed, 2)), part(bias, 2))

    def split(x: Tensor) -> Tensor:
        # [length, batch, A × width] → [batch, A, length, width]
        length, batch = x.shape[0], x.shape[1]
        heads = x.shape[2] // width
        flat = x.contiguous().view(length, batch * heads, width)
        return flat.transpose(0, 1).view(batch, heads, length, width)

    q, k, v = split(q), split(k), split(v)
    if plan.scale is not None:
        q = q * plan.scale.to(q.dtype)
    return q, k, v, index, plan.gain


def _packed(x: Tensor, weight: Tensor, bias: Tensor | None, blocks: int) -> tuple[Tensor, ...]:
    """One product for several projections of one input."""
    together = F.linear(x, weight, bias)
    if not _HAS_SDPA:
        return tuple(together.chunk(blocks, dim=-1))
    size = together.shape[-1] // blocks
    parts = together.view(*together.shape[:-1], blocks, size).unsqueeze(0)
    return tuple(parts.transpose(0, -2).squeeze(-2).contiguous().unbind(0))


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Outputs, and weights where they are needed, by the kernels that PyTorch takes itself."""
    if _HAS_SDPA and not need_weights:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
    batch, heads, length, width = q.shape
    keys = k.shape[2]
    flat_q, flat_k, flat_v = (x.reshape(batch * heads, x.shape[2], width) for x in (q, k, v))
    flat_q = flat_q * math.sqrt(1.0 / width) if _HAS_SDPA else flat_q / math.sqrt(width)
    if mask is None:
        weights = torch.bmm(flat_q, flat_k.transpose(-2, -1))
    else:
        full = mask.expand(batch, heads if mask.shape[1] > 1 else mask.shape[1], *mask.shape[2:])
        flat_mask = full.expand(batch, heads, length, keys).reshape(batch * heads, length, keys)
        weights = torch.baddbmm(flat_mask, flat_q, flat_k.transpose(-2, -1))
    weights = torch.softmax(weights, dim=-1)
    if dropout > 0.0:
        weights = F.dropout(weights, p=dropout)
    heads_out = torch.bmm(weights, flat_v).view(batch, heads, length, width)
    return heads_out, weights.view(batch, heads, length, keys) if need_weights else None


def _merge_masks(
    module: nn.MultiheadAttention,
    q: Tensor,
    k: Tensor,
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    index: Tensor | None,
) -> Tensor | None:
    """Both masks as one that is added to the logits: [batch or 1, A or 1, queries or 1, keys]."""
    batch, keys = q.shape[0], k.shape[2]
    mask = None
    if attn_mask is not None:
        mask = _additive(attn_mask, q.dtype)
        _expect_shape(
            "attn_mask", mask, (batch * module.num_heads, q.shape[2], keys)[-mask.dim() :]
        )
        if mask.dim() == 2:
            mask = mask.view(1, 1, *mask.shape)
        else:
            mask = mask.view(batch, module.num_heads, *mask.shape[1:])
            mask = mask if index is None else mask.index_select(1, index)
    if key_padding_mask is not None:
        sizes = (batch, keys)[-key_padding_mask.dim() :]
        _expect_shape("key_padding_mask", key_padding_mask, sizes)
        padding = _additive(key_padding_mask, q.dtype).view(batch, 1, 1, keys)
        mask = padding if mask is None else mask + padding
    return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added; in a boolean one of MultiheadAttention True hides."""
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.bool(), float("-inf"))


class TorchMultiheadAttention:
    """Adapter of torch.nn.MultiheadAttention."""

    def __init__(self) -> None:
        # What would read the weights past a module's forward: the layers and encoders around it.
        self._around: dict[int, list[tuple[nn.Module, str, Any]]] = {}

    def find(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Site]]:
        """As Adapter."""
        self._around.clear()
        for outer in model.modules():
            if isinstance(outer, nn.TransformerEncoder):
                for layer in outer.modules():
                    self._around.setdefault(id(layer), []).append(
                        (outer, "use_nested_tensor", False)
                    )
            if isinstance(outer, nn.TransformerEncoderLayer):
                switch = (outer, "activation_relu_or_gelu", 0)
                self._around.setdefault(id(outer.self_attn), []).append(switch)
        for name, module in model.named_modules():
            if type(module) is not nn.MultiheadAttention:
                continue
            if module.bias_k is not None or module.add_zero_attn:
                warnings.warn(
                    f"attune: '{name}' is left out: MultiheadAttention with add_bias_kv or "
                    "add_zero_attn cannot be tuned",
                    stacklevel=2,
                )
                continue
            cross = name.rpartition(".")[2] == "multihead_attn" or not module._qkv_same_embed_dim
            kind = SiteKind.CROSS if cross else SiteKind.SELF
            heads, width = module.num_heads, module.head_dim
            yield name, module, Site(name, kind, False, heads, width, UNKNOWN_CONTEXT)

    def install(self, module: nn.Module, tuning: Tuning) -> Callable[[], None]:
        """As Adapter."""
        switches = [
            (outer, name, getattr(outer, name), off)
            for outer, name, off in self._around.get(id(module), [])
            if hasattr(outer, name)
        ]
        for outer, name, _, off in switches:
            setattr(outer, name, off)
        module.add_module(NAME, tuning)
        module.__class__ = TunedMultiheadAttention

        def restore() -> None:
            module.__class__ = nn.MultiheadAttention
            delattr(module, NAME)
            for outer, name, before, _ in switches:
                setattr(outer, name, before)

        return restore

    def bake(self, module: nn.Module, setting: Setting) -> None:
        """As Adapter."""
        assert isinstance(module, nn.MultiheadAttention)
        query = module.q_proj_weight if module.in_proj_weight is None else module.in_proj_weight
        fold_weight(query, setting.scale, module.head_dim, columns=False)
        if module.in_proj_bias is not None:
            fold_weight(module.in_proj_bias, setting.scale, module.head_dim, columns=False)
        fold_weight(module.out_proj.weight, outputs_of(setting), module.head_dim, columns=True)
