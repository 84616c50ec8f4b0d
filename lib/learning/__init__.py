"""Two networks and their training: losses, samplers, the trainer, training setups, baselines.

Imports `lib.data`, `lib.vlm`, `lib.consensus` and the leaves.
"""
