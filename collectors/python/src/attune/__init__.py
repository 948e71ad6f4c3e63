"""attune: the trainer's side, for PyTorch. `attach` is where to begin; see `attune.handle`."""

from attune.adapters.own import Attention, scaled_dot_product_attention
from attune.handle import Handle, attach
from attune.values import Budget, BudgetKind, JobSpec, Observation, Outcome, Setting, Site, SiteKind

__version__ = "0.1.0"

__all__ = [
    "Attention",
    "Budget",
    "BudgetKind",
    "Handle",
    "JobSpec",
    "Observation",
    "Outcome",
    "Setting",
    "Site",
    "SiteKind",
    "attach",
    "scaled_dot_product_attention",
]
