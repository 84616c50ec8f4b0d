"""All figures, and the pictures of the front page.

Takes arrays, tables and frames of `lib.report`; imports that, `lib.consensus` and the leaves.
"""
