"""Datasets as files: cards, where they lie, tile tables, folds, images and their stains.

Every other room may import from here; this one imports the leaves of `lib` alone.
"""
