"""Inputs of evaluations: data sets, models, features, heatmaps and report indexes."""
