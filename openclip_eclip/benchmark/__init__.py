"""Benchmarks: many training runs with the same settings, compared with intervals."""
