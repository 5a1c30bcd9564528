"""Bad inputs, each with the command that reads it and the words that its answer must contain."""
