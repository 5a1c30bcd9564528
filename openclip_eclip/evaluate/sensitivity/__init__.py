"""Task sensitivity: whether the model uses the annotation, and where it attends."""
