"""Whole slides: reading at exact µm/px, tissue, grids of tiles, features files, open sets, pooling.

Imports `lib.vlm` and the leaves.
"""
