"""How good a classifier is, with few labels or none, and when to stop labelling.

Imports `lib.learning`, `lib.active`, `lib.report`, `lib.consensus`, `lib.clusters` and the leaves.
"""
