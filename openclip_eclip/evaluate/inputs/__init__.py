"""What evaluations read: sets, models, features, heatmaps, indexes."""
