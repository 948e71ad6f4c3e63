"""Attention of a model's own: `attune.Attention` where it calls scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from attune.adapters import NAME, NotReadyError, fold, outputs_of
from attune.attention import Tuning, plain_attention
from attune.values import Setting, Site, SiteKind


class Attention(nn.Module):
    """scaled_dot_product_attention that attune can tune. Without `attach` it is just that.

    In a module of your own:

        self.attention = attune.Attention(8, 64, causal=True, context=512,
                                          query=self.query, output=self.output)
        …
        y = self.attention(q, k, v, is_causal=True)

    `Handle.bake` can fold only into projections from which, and to which, heads come unchanged:
    between `query`, this module and `output` they may be turned (RoPE) or reshaped, not normalised,
    clipped or added to. Where they are, leave that projection out: `bake` refuses then.

    Args:
        heads: Of the queries, 1 to 1,024.
        head_width: Dimensions of one head.
        causal: Whether a query sees only keys up to its own position.
        context: Keys that a query can see at most.
        cross: Whether the keys come from another sequence than the queries.
        query: The projection that makes the queries, heads after one another; `Handle.bake` folds
            scales into it.
        output: The projection that takes up the heads' outputs; `Handle.bake` folds gains into it.
    """

    def __init__(
        self,
        heads: int,
        head_width: int,
        *,
        causal: bool = False,
        context: int = 1,
        cross: bool = False,
        query: nn.Module | None = None,
        output: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.causal = causal
        self.context = context
        self.cross = cross
        self.projections = (query, output)  # in a tuple: they are the model's, not children here

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """As torch.nn.functional.scaled_dot_product_attention.

        Args:
            query: [batch, heads, queries, head_width].
            key: [batch, key heads, keys, head_width]; key heads divide heads.
            value: As key.
            attn_mask: Boolean (True: visible) or added to the logits.
            dropout_p: Probability with which a weight is dropped; the caller's to set to 0 outside
                training.
            is_causal: Whether later keys are hidden.
            scale: Factor on the logits (default: 1 / √head_width).

        Returns:
            [batch, heads, queries, head_width].
        """

        def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return plain_attention(q, k, v, mask, dropout_p, is_causal, scale)

        tuning = self._modules.get(NAME)
        if not isinstance(tuning, Tuning):
            return kernel(query, key, value, attn_mask)
        scaling = query.shape[-1] ** -0.5 if scale is None else scale
        return tuning.attend(
            query, key, value, kernel, scaling=scaling, mask=attn_mask, causal=is_causal
        )


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    site: Attention,
) -> Tensor:
    """As torch.nn.functional's, tuned at the site: an `Attention` that the model has as a child."""
    tuned: Tensor = site(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return tuned


class OwnAttention:
    """Adapter of `Attention`."""

    def find(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Site]]:
        """As Adapter."""
        for name, module in model.named_modules():
            if isinstance(module, Attention):
                kind = SiteKind.CROSS if module.cross else SiteKind.SELF
                yield (
                    name,
                    module,
                    Site(
                        name,
                        kind,
                        module.causal,
                        module.heads,
                        module.head_width,
                        module.context,
                    ),
                )

    def install(self, module: nn.Module, tuning: Tuning) -> Callable[[], None]:
        """As Adapter."""
        module.add_module(NAME, tuning)
        return lambda: delattr(module, NAME)

    def bake(self, module: nn.Module, setting: Setting) -> None:
        """As Adapter."""
        assert isinstance(module, Attention)
        query, output = module.projections
        for what, projection, factors, inputs in (
            ("query", query, list(setting.scale), False),
            ("output", output, outputs_of(setting), True),
        ):
            if all(factor == 1 for factor in factors):
                continue
            if projection is None:
                raise NotReadyError(
                    f"it was not told its {what} projection: attune.Attention(…, {what}=…)"
                )
            fold(projection, factors, module.head_width, inputs=inputs)
