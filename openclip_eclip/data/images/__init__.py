"""The reader of image files."""
