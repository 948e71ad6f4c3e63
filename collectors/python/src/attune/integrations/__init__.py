"""attune where others hold the training loop, and where people look: one file each.

`huggingface` and `lightning` are callbacks; `tensorboard` writes what was measured.
"""
