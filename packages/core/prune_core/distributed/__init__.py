"""Runs of several processes: who they are, what they agree on, weights that are divided among them."""
