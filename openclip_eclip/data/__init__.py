"""Annotated image-text data: tables and shards, heatmap files, the joint transform, batches."""
