"""attune: the trainer's side, for PyTorch."""

from attune.values import Budget, BudgetKind, JobSpec, Outcome, Setting, Site, SiteKind

__version__ = "0.1.0"

__all__ = ["Budget", "BudgetKind", "JobSpec", "Outcome", "Setting", "Site", "SiteKind"]
