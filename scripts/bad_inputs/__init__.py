"""Bad inputs, each with the command that reads it and the words its one-line answer must hold."""
