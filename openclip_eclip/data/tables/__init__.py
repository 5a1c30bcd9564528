"""CSV and TSV tables with paths, captions and heatmaps."""
