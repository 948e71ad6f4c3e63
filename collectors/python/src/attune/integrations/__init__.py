"""attune where others hold the training loop, and where people look: one file each.

`huggingface` and `lightning` are callbacks; `tensorboard` writes what was measured.
"""

from __future__ import annotations

import warnings

from attune.handle import Handle


def let_go(*handles: Handle | None, keep: bool) -> None:
    """Of the models of jobs that are over, before another job begins.

    Args:
        handles: Know nothing of their models any more when this returns. None is nobody.
        keep: Their tuning, in the weights: what is trained on is what was trained.
    """
    for handle in filter(None, handles):
        try:
            if keep:
                handle.bake_in_place()
        except Exception as error:
            warnings.warn(
                f"attune: {error}; the model is trained on with all its heads and no scales",
                RuntimeWarning,
                stacklevel=3,
            )
        handle.remove()
