"""Measure any open_clip model, plain or eCLIP: every image and text encoded once, results with
their uncertainty.
"""
