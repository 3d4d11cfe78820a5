"""Depth nets: one file each, all behind the same call."""
