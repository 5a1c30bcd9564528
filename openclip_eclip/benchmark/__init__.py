"""The benchmark: many runs with the same search, compared with intervals."""
