"""From predictions and rows of the record to scores and tables.

Imports the leaves and `lib.consensus`; computes nothing that a method needs.
"""
