"""Measuring attention on a few sampled query rows, with stock kernels.

What the numbers mean is defined in `env/observation.h` of the daemon; the C++ side is
`collectors/attention.cpp`. Nothing of size queries × keys is made: entropy is the log-sum-exp of
the sampled rows minus their expected logit. Functions of their arguments alone; no random numbers
are drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attune.values import METRICS, PROFILE_BINS

ROWS, SEQUENCES = 16, 2
"""Query rows that are measured in a sequence, and sequences of a batch, at most."""

COLUMNS = len(METRICS) + PROFILE_BINS + 1
"""Of what `numbers` returns: the metrics, the profile, and how many rows counted."""

IMPORTANCE = METRICS.index("importance")
LARGEST_LOGIT = METRICS.index("largest_logit")

_HIDDEN_BELOW = -1e4  # a mask entry so low hides its key from the measurement
_MINUS_INFINITY = float("-inf")


def stratified(draws: Tensor, first: int, end: int) -> Tensor:
    """One whole number from each equal stretch of [first, end); all of them where there are fewer.

    Args:
        draws: [count] uniform numbers in [0, 1).
        first: The least number.
        end: One above the largest; above `first`.

    Returns:
        [count or fewer], ascending, 64-bit integers on the device of `draws`.
    """
    size, count = end - first, draws.shape[0]
    if size <= count:
        return torch.arange(first, end, device=draws.device)
    places = torch.arange(count + 1, device=draws.device)
    bounds = torch.div(places * size, count, rounding_mode="floor")
    low, width = bounds[:-1], bounds[1:] - bounds[:-1]
    return first + low + torch.minimum((draws * width).to(torch.int64), width - 1)


class View(NamedTuple):
    """What the sampled rows see: the same for all sites with one mask, so made once for them.

    S sequences, R rows, K keys; A stands for 1 where all heads see the same.

    Attributes:
        rows: [R] query rows that are measured.
        sequences: [S] sequences of the batch that are measured.
        bias: [S, A, R, K] added to the logits; None: nothing.
        hidden: [S, A, R, K] keys that are not seen; all of a row that sees less than two keys.
        counts: [S, A, R] whether a row sees two keys or more: the others say nothing.
        weight: [S, A, R] of a row in a mean over the rows that count.
        log_seen: [S, A, R] logarithm of the number of keys seen.
        bins: [S, A, R, K] place of a key in the profile.
        first: [S, A, R, 1] first key that is seen: where a mask hides the beginning, behind it.
        counted: [A] rows that count.
        softcap: c of the logits' bound c · tanh(s / c), applied before the bias; 0: none.
    """

    rows: Tensor
    sequences: Tensor
    bias: Tensor | None
    hidden: Tensor
    counts: Tensor
    weight: Tensor
    log_seen: Tensor
    bins: Tensor
    first: Tensor
    counted: Tensor
    softcap: float


def look(
    rows: Tensor,
    sequences: Tensor,
    batch: int,
    queries: int,
    keys: int,
    mask: Tensor | None = None,
    causal: bool = False,
    softcap: float = 0.0,
) -> View:
    """What these rows of a batch see.

    Args:
        rows: Query rows to measure.
        sequences: Sequences of the batch to measure.
        batch: Sequences in the batch.
        queries: Query rows of a sequence.
        keys: Keys of a sequence, at least 2.
        mask: Boolean (True: visible) or added to the logits; broadcasts to [batch, heads, queries,
            keys]. Entries of -10,000 and below hide a key.
        causal: Whether query i sees the keys 0 to i alone.
        softcap: See `View`.
    """
    with torch.no_grad():
        shape = (sequences.shape[0], 1, rows.shape[0], keys)
        visible = torch.ones(shape, dtype=torch.bool, device=rows.device)
        bias = None
        if causal:
            visible = visible & (torch.arange(keys, device=rows.device) <= rows.unsqueeze(1))
        if mask is not None:
            full = mask.expand(batch, mask.shape[1] if mask.dim() > 3 else 1, queries, keys)
            part = full.index_select(0, sequences).index_select(2, rows)
            if part.dtype == torch.bool:
                visible = visible & part
            else:
                bias = part.float()
                visible = visible & (bias > _HIDDEN_BELOW)
        seen = visible.sum(-1)
        counts = seen >= 2
        counted = counts.sum((0, 2)).float()
        # Key of rank r among n seen ones: bin ⌊16 (n − 1 − r) / n⌋.
        n = seen.clamp_min(1).float().unsqueeze(-1)
        bins = ((n - visible.cumsum(-1)) * PROFILE_BINS / n).floor().clamp(0, PROFILE_BINS - 1)
        return View(
            rows,
            sequences,
            bias,
            ~(visible & counts.unsqueeze(-1)),
            counts,
            counts.float() / counted.clamp_min(1).view(1, -1, 1),
            seen.float().log(),
            bins.long(),
            visible.to(torch.uint8).argmax(-1, keepdim=True),
            counted,
            softcap,
        )


class Sample(NamedTuple):
    """What a site's numbers are worked out from; S, A, R and K as in `View`.

    Attributes:
        query: [S, A, R, width], multiplied by the factor on the logits.
        key: [S, A, K, width].
        norms: [S, A, R] of the heads' outputs, after their gain.
        view: What the rows see.
    """

    query: Tensor
    key: Tensor
    norms: Tensor
    view: View


def sample(query: Tensor, key: Tensor, output: Tensor, view: View, scaling: float) -> Sample:
    """The sampled rows of a pass, in 32-bit floats.

    Args:
        query: [batch, heads, queries, width], tuned, not yet multiplied by `scaling`.
        key: [batch, key heads, keys, width]; key heads divide heads.
        output: [batch, heads, queries, width], the heads' outputs after their gain.
        view: What the rows see, of the same batch.
        scaling: Factor on the logits.
    """

    def rows(x: Tensor) -> Tensor:
        return x.index_select(0, view.sequences).index_select(2, view.rows).float()

    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        keys = key.index_select(0, view.sequences)
        if key.shape[1] != query.shape[1]:
            keys = keys.repeat_interleave(query.shape[1] // key.shape[1], 1)
        return Sample(
            rows(query) * scaling,
            keys.float(),
            rows(output).norm(dim=-1),
            view,
        )


def numbers(samples: Sequence[Sample]) -> Tensor:
    """The metrics and profile of every head on the sampled rows, in 32-bit floats.

    Args:
        samples: Of sites with one view and one shape: worked out together, as a GPU takes no longer
            for many sites than for one.

    Returns:
        [sites, heads, COLUMNS]; the importance is 0 here, as only the backward pass tells it, and
        all is 0 where no row sees two keys.
    """
    with torch.no_grad(), torch.autocast(samples[0].query.device.type, enabled=False):
        query = torch.stack([one.query for one in samples])
        key = torch.stack([one.key for one in samples])
        norms = torch.stack([one.norms for one in samples])
        return _numbers(query, key, norms, samples[0].view)


def _numbers(query: Tensor, key: Tensor, norms: Tensor, view: View) -> Tensor:
    # L sites, S sequences, A heads, R rows, K keys.
    logits = torch.matmul(query, key.transpose(-2, -1))
    if view.softcap:
        logits = view.softcap * torch.tanh(logits / view.softcap)
    if view.bias is not None:
        logits = logits + view.bias
    logits = logits.masked_fill(view.hidden, _MINUS_INFINITY)
    log_p = torch.log_softmax(logits, -1).masked_fill(view.hidden, 0)
    p = log_p.exp().masked_fill(view.hidden, 0)
    by_row = torch.stack(
        (
            -(p * log_p).sum(-1) / view.log_seen,  # H = log Σ exp(s) − E[s]
            p.amax(-1),
            p.gather(4, view.first.expand(*p.shape[:4], 1)).squeeze(4),
            norms,
        )
    )
    entropy, top, first, sizes = (
        (by_row * view.weight).masked_fill(~view.counts, 0).sum((2, 4)).unbind(0)
    )

    # Cosines of the heads' weights, row by row: [L, S, R, A, A] → [L, A, A].
    units = (p / p.norm(dim=-1, keepdim=True).clamp_min(1e-20)).transpose(2, 3)
    shared = view.weight.expand(p.shape[1:4]).transpose(1, 2).unsqueeze(-1)
    cosines = (torch.matmul(units, units.transpose(-2, -1)) * shared).sum((1, 2))
    cosines = cosines * (
        1 - torch.eye(cosines.shape[-1], dtype=cosines.dtype, device=cosines.device)
    )

    profile = p.new_zeros((*p.shape[:4], PROFILE_BINS))
    profile = profile.scatter_add_(4, view.bins.expand(p.shape), p)
    counted = view.counted.expand(sizes.shape)
    metrics = [
        entropy.clamp(0, 1),
        logits.amax((1, 3, 4)).masked_fill(counted == 0, 0),
        top,
        first,
        sizes / sizes.mean(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny),
        torch.zeros_like(sizes),
        cosines.amax(-1).clamp(0, 1),
    ]
    return torch.cat(
        (
            torch.stack(metrics, -1),
            (profile * view.weight.unsqueeze(-1)).sum((1, 3)),
            counted.unsqueeze(-1),
        ),
        -1,
    )
