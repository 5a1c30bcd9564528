"""Shards: webdataset's tar archives."""
