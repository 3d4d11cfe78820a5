"""Depth nets: one file each, all with the same interface."""
