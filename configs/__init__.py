"""Configs of training and evaluation."""
