"""Numbers from arrays: no model, no files; numpy in float64, scikit-learn where it has the
metric.
"""
