"""Measuring attention on a few sampled query rows, with stock kernels.

What the numbers mean is defined in `env/observation.h` of the daemon; the C++ side is
`collectors/attention.cpp`. Nothing of size queries × keys is made: entropy is the log-sum-exp of
the sampled rows minus their expected logit. Functions of their arguments alone; no random numbers
are drawn here.
"""

from __future__ import annotations

import contextlib

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


def numbers(
    query: Tensor,
    key: Tensor,
    output: Tensor,
    rows: Tensor,
    sequences: Tensor,
    scaling: float,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """The metrics and profile of every head on the sampled rows, in 32-bit floats.

    Args:
        query: [batch, heads, queries, width], tuned, not yet multiplied by `scaling`.
        key: [batch, heads, keys, width], at least 2 keys.
        output: [batch, heads, queries, width], the heads' outputs after their gain.
        rows: Query rows to measure.
        sequences: Sequences of the batch to measure.
        scaling: Factor on the logits.
        mask: Boolean (True: visible) or added to the logits; broadcasts to [batch, heads, queries,
            keys]. Entries of -10,000 and below hide a key.
        causal: Whether query i sees the keys 0 to i alone.

    Returns:
        [heads, COLUMNS]; the importance is 0 here, as only the backward pass tells it, and all is 0
        where no row sees two keys.
    """
    with torch.no_grad(), _full_precision(query):
        return _numbers(query, key, output, rows, sequences, scaling, mask, causal)


def _full_precision(like: Tensor) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(like.device.type, enabled=False)


def _numbers(
    query: Tensor,
    key: Tensor,
    output: Tensor,
    rows: Tensor,
    sequences: Tensor,
    scaling: float,
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    def sample(x: Tensor) -> Tensor:
        return x.index_select(0, sequences).index_select(2, rows)

    # S sequences, A heads, R rows, K keys.
    keys = key.index_select(0, sequences).float()
    logits = torch.matmul(sample(query).float() * scaling, keys.transpose(-2, -1))  # [S, A, R, K]
    count = keys.shape[2]
    visible = torch.ones(
        (sequences.shape[0], 1, rows.shape[0], count), dtype=torch.bool, device=query.device
    )
    if causal:
        visible = visible & (torch.arange(count, device=query.device) <= rows.unsqueeze(1))
    if mask is not None:
        full = mask.expand(query.shape[0], mask.shape[1], query.shape[2], count)
        part = sample(full)
        if part.dtype == torch.bool:
            visible = visible & part
        else:
            visible = visible & (part > _HIDDEN_BELOW)
            logits = logits + part.float()
    seen = visible.sum(-1)  # [S, 1 or A, R], keys that a row sees
    counts = seen >= 2  # rows of fewer say nothing
    visible = visible & counts.unsqueeze(-1)
    counted = counts.sum((0, 2)).float()  # [1 or A]
    weight = counts.float() / counted.clamp_min(1).view(1, -1, 1)

    def mean(x: Tensor) -> Tensor:  # [S, A, R] → [A], over the rows that count
        return (x * weight).masked_fill(~counts, 0).sum((0, 2))

    hidden = ~visible
    seen_logits = logits.masked_fill(hidden, _MINUS_INFINITY)
    log_sum = seen_logits.logsumexp(-1)  # [S, A, R]
    p = (seen_logits - log_sum.unsqueeze(-1)).exp().masked_fill(hidden, 0)
    entropy = log_sum - (p * logits.masked_fill(hidden, 0)).sum(-1)  # H = log Σ exp(s) − E[s]
    norms = mean(sample(output).float().norm(dim=-1))

    # Cosines of the heads' weights, row by row: [S, R, A, A] → [A, A].
    units = (p / p.norm(dim=-1, keepdim=True).clamp_min(1e-20)).transpose(1, 2)
    shared = weight.expand(weight.shape[0], p.shape[1], weight.shape[2]).transpose(1, 2)
    cosines = (torch.matmul(units, units.transpose(-2, -1)) * shared.unsqueeze(-1)).sum((0, 1))
    cosines = cosines * (1 - torch.eye(cosines.shape[0], device=cosines.device))

    # Key of rank r among n seen ones: bin ⌊16 (n − 1 − r) / n⌋.
    n = seen.unsqueeze(-1).clamp_min(1)
    bins = torch.div((n - visible.cumsum(-1)) * PROFILE_BINS, n, rounding_mode="floor")
    bins = bins.clamp(0, PROFILE_BINS - 1)
    profile = p.new_zeros((*p.shape[:3], PROFILE_BINS)).scatter_add_(3, bins.expand(p.shape), p)

    columns = [
        mean(entropy / seen.float().log()).clamp(0, 1),
        seen_logits.amax((0, 2, 3)),
        mean(p.amax(-1)),
        mean(p.select(3, 0)),
        norms / norms.mean().clamp_min(torch.finfo(torch.float32).tiny),
        torch.zeros_like(norms),
        cosines.amax(-1).clamp(0, 1),
    ]
    return torch.cat(
        [
            torch.stack(columns, 1),
            (profile * weight.unsqueeze(-1)).sum((0, 2)),
            counted.expand(norms.shape).unsqueeze(1),
        ],
        1,
    )
