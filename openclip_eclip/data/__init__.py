"""Annotated image-text data: sources, heatmap files, the joint transform, the batch."""
