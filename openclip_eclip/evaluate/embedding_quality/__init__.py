"""Alignment, uniformity, modality gap and clusters."""
