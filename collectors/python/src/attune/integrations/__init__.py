"""attune where others hold the training loop, and where people look: one file each.

`huggingface` and `lightning` are callbacks; `tensorboard` writes what was measured.
"""

from __future__ import annotations

import warnings

from attune.handle import Handle


def let_go(handle: Handle, *, keep: bool) -> None:
    """Of the model of a job that is over, before another begins with it.

    Args:
        handle: Knows nothing of the model any more when this returns.
        keep: Its tuning, in the weights: what is trained on is what was trained.
    """
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
