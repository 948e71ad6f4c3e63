"""What a policy sees and chooses, as plain values: `env/state.h` and `env/action.h` in Python.

Heads are numbered through the whole job, as everywhere. Values are immutable by convention.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from attune.values import Floats, floats

TOKEN_FEATURES = (
    "entropy",
    "largest_logit",
    "top_weight",
    "first_token_mass",
    "output_norm",
    "importance",
    "redundancy",
    "divergence",
    "entropy_change",
    "output_norm_change",
    "redundancy_change",
    "active",
    "scale",
    "active_share",
    "site_heads",
    "depth",
    "context",
    "head_width",
    "cross",
    "progress",
    "loss",
    "loss_slope",
    "attention_share",
    "step_cost",
    "learning_rate",
    "budget_in_compute",
    "budget_steps",
    "first_loss",
    "sgd",
)
"""What a policy sees of a head, each brought to about -2 to 2; `env/state.h` has the formulas."""

SCALE_FACTORS = (1 / 4, 1 / 1.5, 1.0, 1.5, 4.0)
"""Factors on a head's logit scale, by the number of the choice."""

KEEP_SCALE = 2


class CountChange(enum.IntEnum):
    """Changes of a site's number of active heads, by the number of the choice."""

    HALVE = 0
    MINUS_ONE = 1
    KEEP = 2
    PLUS_ONE = 3
    DOUBLE = 4


@dataclass(frozen=True)
class ActionMask:
    """Which choices are open: 1, or 0. Keeping always is.

    Attributes:
        scale: [heads × 5] bytes, row-major.
        count: [sites × 5] bytes, row-major.
    """

    scale: bytes
    count: bytes

    @property
    def heads(self) -> int:
        """Heads of the job."""
        return len(self.scale) // len(SCALE_FACTORS)

    @property
    def sites(self) -> int:
        """Sites of the job."""
        return len(self.count) // len(CountChange)

    def open_scales(self, head: int) -> list[int]:
        """The scale choices that a head has, ascending."""
        width = len(SCALE_FACTORS)
        return [c for c in range(width) if self.scale[head * width + c]]

    def open_counts(self, site: int) -> list[CountChange]:
        """The count changes that a site has, ascending."""
        return [c for c in CountChange if self.count[site * len(CountChange) + c]]


@dataclass(frozen=True)
class Action:
    """A policy's choices for a whole job.

    Attributes:
        scale: [heads] bytes, each the number of a choice in `SCALE_FACTORS`.
        count: [sites] bytes, each a `CountChange`.
        score: [heads], finite; where a site's count changes its heads of highest score stay or
            come in.
    """

    scale: bytes = b""
    count: bytes = b""
    score: Floats = field(default_factory=floats)

    @classmethod
    def keep(cls, heads: int, sites: int) -> Action:
        """The action that changes nothing."""
        return cls(
            bytes([KEEP_SCALE]) * heads, bytes([CountChange.KEEP]) * sites, floats([0.0]) * heads
        )


def action_fault(action: Action, mask: ActionMask) -> str | None:
    """What makes the action unusable where `mask` says what is open, in one line, or nothing."""
    heads, sites = mask.heads, mask.sites
    if (len(action.scale), len(action.count), len(action.score)) != (heads, sites, heads):
        return (
            f"it has {len(action.scale)} scale choices, {len(action.count)} count choices and "
            f"{len(action.score)} scores for {heads} heads and {sites} sites"
        )
    for head, choice in enumerate(action.scale):
        if choice not in mask.open_scales(head):
            return f"scale choice {choice} of head {head} is not open; choose by the mask"
        if not math.isfinite(action.score[head]):
            return f"the score of head {head} is not finite"
    for site, choice in enumerate(action.count):
        if choice not in mask.open_counts(site):
            return f"count choice {choice} of site {site} is not open; choose by the mask"
    return None
