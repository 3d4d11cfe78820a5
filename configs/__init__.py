"""Configs, one file for each size; `common.py` has the fields of all."""
