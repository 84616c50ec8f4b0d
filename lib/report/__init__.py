"""From predictions and rows of the record to scores and tables.

Imports the leaves, `lib.consensus`, `lib.alarm` and, as types alone, `lib.learning` and
`lib.active`; computes nothing that a method needs.
"""
