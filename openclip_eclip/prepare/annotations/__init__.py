"""`prepare annotations`: joins files of annotation tools or eye trackers with images and texts."""
