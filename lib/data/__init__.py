"""Datasets as files: cards, where they lie, tile tables, images, drawn tissue, patches, downloads.

Every other room may import from here; this one imports the leaves of `lib` alone.
"""
