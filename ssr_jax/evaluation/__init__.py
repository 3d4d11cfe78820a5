"""Evaluation of models on folders of photos, and the tables and figures that show the results."""
