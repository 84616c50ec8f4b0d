"""Two networks and their training: losses, samplers, the trainer, training setups, baselines.

Imports `lib.data`, `lib.vlm.views` and the leaves.
"""
