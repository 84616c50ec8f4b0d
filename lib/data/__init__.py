"""Datasets as files: cards, tile tables, images, drawn tissue, patches of larger images, downloads.

Imports the leaves of `lib` alone.
"""
