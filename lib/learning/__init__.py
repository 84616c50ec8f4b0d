"""Two networks and how they learn: losses, samplers, the trainer, training setups, baselines.

Imports `lib.data`, `lib.vlm.views` and the leaves.
"""
