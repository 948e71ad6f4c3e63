"""What attune measures, in TensorBoard: `write(writer, handle)` once a step.

It writes where a step was measured, and nothing else: scalars `attune/imbalance`, and for every
site `attune/entropy/SITE` and `attune/active_heads/SITE`; images `attune/heat_map/entropy` (a row
for each site, a column for each head) and `attune/heat_map/profile` (a row for each head).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attune.handle import Handle
from attune.values import METRICS, PROFILE_BINS, Observation

_WRITTEN = "_attune_written"  # of the writer: the step of the last observation
_IMAGES_EVERY = 10  # observations: an image is a thousand times a scalar
_PIXELS = 12  # of a cell


def write(writer: Any, handle: Handle) -> None:
    """Writes the last observation, where there is a new one.

    Args:
        writer: `torch.utils.tensorboard.SummaryWriter`, or anything with its `add_scalar` and
            `add_image`.
        handle: The job.
    """
    observation = handle.last_observation
    written, last = getattr(writer, _WRITTEN, (0, None))
    if observation is None or observation.step == last:
        return
    setattr(writer, _WRITTEN, (written + 1, observation.step))
    step = observation.step
    metrics = torch.tensor(observation.metrics.tolist()).view(-1, len(METRICS))
    profile = torch.tensor(observation.profile.tolist()).view(-1, PROFILE_BINS)
    active = torch.tensor(list(observation.active), dtype=torch.bool)
    writer.add_scalar("attune/imbalance", imbalance(observation), step)
    first = 0
    for site in handle.sites:
        heads = slice(first, first + site.heads)
        first += site.heads
        mean = metrics[heads, METRICS.index("entropy")][active[heads]].mean()
        writer.add_scalar(f"attune/entropy/{site.name}", float(mean), step)
        writer.add_scalar(f"attune/active_heads/{site.name}", int(active[heads].sum()), step)
    if written % _IMAGES_EVERY == 0:
        entropy = torch.split(
            metrics[:, METRICS.index("entropy")], [site.heads for site in handle.sites]
        )
        rows = torch.nn.utils.rnn.pad_sequence(list(entropy), batch_first=True)
        writer.add_image("attune/heat_map/entropy", _cells(rows), step)
        writer.add_image("attune/heat_map/profile", _cells(profile * PROFILE_BINS / 4), step)


def imbalance(observation: Observation) -> float:
    """As `env/meter.h` has it of one step, with even attention as the baseline.

    The difference (a − b) / b per bin of the profile, b = 1 / bins, in absolute value, averaged
    over bins and active heads: 0 where all attend evenly, 2 − 2 / bins where each sees one bin
    alone.
    """
    profile = torch.tensor(observation.profile.tolist()).view(-1, PROFILE_BINS)
    active = torch.tensor(list(observation.active), dtype=torch.bool)
    return float((profile[active] * PROFILE_BINS - 1).abs().mean())


def _cells(values: Tensor) -> Tensor:
    """[1, rows × pixels, columns × pixels], 0 black to 1 white."""
    grey = values.clamp(0, 1)
    return grey.repeat_interleave(_PIXELS, 0).repeat_interleave(_PIXELS, 1).unsqueeze(0)
