"""Read webdataset shards: tar archives of samples."""
