"""Synthetic chest X-rays and head CT slices ("phantoms") with reports and gaze."""
