"""Evaluation of any open_clip model, plain or eCLIP.

Every image and text is encoded once. Every score has an interval.
"""
