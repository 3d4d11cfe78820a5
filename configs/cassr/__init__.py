"""The configs of CasSR, one for each size, and what they share."""
