"""Classes from prompts."""
