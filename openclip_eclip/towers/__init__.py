"""What must be known of open_clip's and timm's towers: positions, local features, pooling."""
