"""Active learning: which tiles to label next, and the rounds of labelling and training.

Imports `lib.learning`, `lib.consensus` and the leaves.
"""
