"""Task linear-probe: logistic regression on frozen image features."""
