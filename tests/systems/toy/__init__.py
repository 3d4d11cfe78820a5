"""Bicubic enlargement with a learned residual: the smallest system, and the example of docs/add-a-system.md."""
