"""Task zero-shot: classification with classes that are described by prompts."""
