"""Annotation tools: one module for each format of boxes, outlines, points and masks."""
