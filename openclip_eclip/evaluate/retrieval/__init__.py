"""Tasks retrieval and search: from image to report, and from report to image."""
