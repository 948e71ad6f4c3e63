"""attune: the trainer's side, for PyTorch. `attach` is where to begin; see `attune.handle`.

PyTorch is imported when a trainer's part is first asked for: the history and policy servers do
without it.
"""

from typing import TYPE_CHECKING

from attune.store import History, HistoryError, history
from attune.values import Budget, BudgetKind, JobSpec, Observation, Outcome, Setting, Site, SiteKind

if TYPE_CHECKING:
    from attune import adapters
    from attune.adapters.own import Attention, scaled_dot_product_attention
    from attune.handle import Handle, attach
else:
    _TRAINERS = {
        "Attention": "attune.adapters.own",
        "Handle": "attune.handle",
        "adapters": "attune",
        "attach": "attune.handle",
        "scaled_dot_product_attention": "attune.adapters.own",
    }

    def __getattr__(name):
        """A trainer's part, with PyTorch."""
        from importlib import import_module

        if name not in _TRAINERS:
            raise AttributeError(f"module 'attune' has no attribute '{name}'")
        try:
            # The folder of adapters is an attribute of the package once it is imported.
            import_module("attune.adapters")
            found = getattr(import_module(_TRAINERS[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ModuleNotFoundError(
                f"attune.{name} needs PyTorch 1.13 or later: install torch", name="torch"
            ) from None
        globals()[name] = found
        return found

    def __dir__():
        return sorted({*globals(), *_TRAINERS})


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
    "adapters",
    "attach",
    "history",
    "scaled_dot_product_attention",
]
