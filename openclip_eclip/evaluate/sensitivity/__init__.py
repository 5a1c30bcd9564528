"""Whether the model uses the annotation, and where it attends."""
