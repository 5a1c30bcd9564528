"""What a batch holds beside images and texts, and which annotated samples a step uses."""
