"""Metrics from arrays, without models or files: numpy in float64, or scikit-learn."""
