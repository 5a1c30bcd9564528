"""One reader for every image file."""
