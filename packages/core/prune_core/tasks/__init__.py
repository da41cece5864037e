"""The tasks that prune-core itself offers: text and image classification."""
