"""Tables: CSV and TSV files with paths, captions and heatmaps."""
