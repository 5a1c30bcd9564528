"""Task grounding: how well the attention of a model finds the region of each phrase."""
