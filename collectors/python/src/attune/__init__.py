"""attune: the trainer's side, for PyTorch. `attach` is where to begin; see `attune.handle`."""

from attune.adapters.own import Attention, scaled_dot_product_attention
from attune.handle import Handle, attach
from attune.store import History, HistoryError, history
from attune.values import Budget, BudgetKind, JobSpec, Observation, Outcome, Setting, Site, SiteKind

__version__ = "0.1.0"

__all__ = [
    "Attention",
    "Budget",
    "BudgetKind",
    "Handle",
    "History",
    "HistoryError",
    "JobSpec",
    "Observation",
    "Outcome",
    "Setting",
    "Site",
    "SiteKind",
    "attach",
    "history",
    "scaled_dot_product_attention",
]
