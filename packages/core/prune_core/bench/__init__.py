"""`prune bench`: what it measures, of model folders, or of networks known by their sizes."""
