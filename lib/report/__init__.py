"""From predictions and rows of the record to scores, tables, figures and pages.

Imports the leaves and `lib.consensus`; computes nothing that a method needs.
"""
