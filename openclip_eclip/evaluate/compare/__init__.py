"""Differences between results, with intervals."""
