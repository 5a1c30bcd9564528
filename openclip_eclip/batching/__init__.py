"""Batches of training: what they hold beside images and texts, and which samples are mixed."""
