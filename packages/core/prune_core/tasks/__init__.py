"""The tasks that prune-core itself offers, and what they share: data, columns, targets, figures."""
