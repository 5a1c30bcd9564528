"""Where a model looks for a text: methods that need no training, for the models of open_clip."""
