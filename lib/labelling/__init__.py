"""People label tiles: their answers on disk, the grid in the notebook, other tools' files.

Imports `lib.active`, `lib.learning`, `lib.data`, `lib.slides`, `lib.classifier` and the leaves.
"""
