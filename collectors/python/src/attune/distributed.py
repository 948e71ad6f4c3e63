"""One job on several processes: what the ranks tell each other at a measured step.

Rank 0 talks with the daemon. At every measured step the ranks add up one vector: each gives its
measurements, rank 0 besides what it has decided. So every rank applies the same action at the same
step, and knows the step of the next measurement. Without torch.distributed there is one rank.
"""

from __future__ import annotations

import os
from array import array
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from attune import measure
from attune.values import Setting


class Exchange(NamedTuple):
    """What is known on every rank after a measured step.

    Attributes:
        numbers: [heads, COLUMNS], the mean of the ranks that measured the head (the largest logit:
            the largest of them); the last column counts them.
        loss: Mean of the ranks.
        share: Mean of the ranks' attention share.
        compute_seconds: Of all ranks together.
        measure_every: Steps to the next measurement, as rank 0 has it.
        setting: To be applied now; None where there is nothing to apply.
    """

    numbers: Tensor
    loss: float
    share: float
    compute_seconds: float
    measure_every: int
    setting: Setting | None


def announced() -> bool:
    """Whether there are several ranks, or the launcher says that there will be."""
    if dist.is_available() and not dist.is_initialized():
        told = os.environ.get("WORLD_SIZE", "1")
        return told.isdecimal() and int(told) > 1
    return several()


def rank() -> int:
    """This process's, 0 where there is one. Before the process group is made, as torchrun says."""
    if several():
        return dist.get_rank()
    told = os.environ.get("RANK", "")
    return int(told) if announced() and told.isdecimal() else 0


def several() -> bool:
    """Whether there is more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def exchange(
    numbers: Tensor,
    loss: float,
    share: float,
    compute_seconds: float,
    measure_every: int,
    setting: Setting | None,
) -> Exchange:
    """Adds up what the ranks have measured, and spreads what rank 0 has decided.

    Called by every rank at the same step. `measure_every` and `setting` count on rank 0 alone.

    Args:
        numbers: [heads, COLUMNS] of this rank; rows with 0 in the last column were not measured.
        loss: Mean training loss on this rank.
        share: Share of the step's time spent in attention on this rank.
        compute_seconds: Of this rank.
        measure_every: Steps between measurements.
        setting: What the daemon wants, or None.
    """
    if not several():
        return Exchange(numbers, loss, share, compute_seconds, measure_every, setting)
    world, me, heads = dist.get_world_size(), dist.get_rank(), numbers.shape[0]
    logit = measure.LARGEST_LOGIT
    measured = numbers[:, -1:] > 0
    told_of = numbers[:, :-1].double().masked_fill(~measured, 0)
    part = torch.cat((told_of, measured.double()), 1)
    logits = torch.zeros(world, heads, dtype=torch.float64, device=numbers.device)
    # Every rank its own row, so that the sum keeps them apart.
    logits[me] = told_of[:, logit]
    decided = torch.zeros(5 + 3 * heads, dtype=torch.float64)
    decided[:3] = torch.tensor([loss / world, share / world, compute_seconds], dtype=torch.float64)
    if me == 0:
        decided[3] = measure_every
        if setting is not None:
            decided[4] = 1
            values = [*setting.scale, *setting.gain, *map(float, setting.active)]
            decided[5:] = torch.tensor(values, dtype=torch.float64)
    packed = torch.cat((part.flatten(), logits.flatten(), decided.to(numbers.device)))
    dist.all_reduce(packed)

    sums = packed[: part.numel()].view(heads, -1)
    ranks = sums[:, -1:]
    mean = torch.cat((sums[:, :-1] / ranks.clamp_min(1), ranks), 1)
    every = packed[part.numel() : part.numel() + logits.numel()].view(world, heads)
    mean[:, logit] = every.masked_fill(every == 0, float("-inf")).amax(0)
    mean[:, logit] = mean[:, logit].masked_fill(mean[:, logit].isinf(), 0)
    told = packed[part.numel() + logits.numel() :].tolist()
    wanted = None
    if told[4]:
        scale, gain, active = (told[5 + i * heads : 5 + (i + 1) * heads] for i in range(3))
        wanted = Setting(array("f", scale), array("f", gain), bytes(map(int, active)))
    return Exchange(mean.float(), told[0], told[1], told[2], int(told[3]), wanted)
