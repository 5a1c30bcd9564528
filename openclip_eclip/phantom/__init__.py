"""Synthetic chest X-rays ("phantoms") with reports and gaze."""
