"""Synthetic chest X-rays with reports and gaze."""
