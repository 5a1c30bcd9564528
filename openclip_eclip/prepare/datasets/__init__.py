"""One module a data set, and what only it reads."""
