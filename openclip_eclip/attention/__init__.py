"""Where a model attends, and pages to look at it."""
