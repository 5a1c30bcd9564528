"""Image to report and report to image."""
