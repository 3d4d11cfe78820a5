"""Weights: the format of a model directory, models by name, published checkpoints and their importers."""
