"""What evaluations write."""
