"""The configs of BlindDiff, one for each size, and what they share."""
