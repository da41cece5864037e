"""The kinds of work that the time of a model is divided into."""

LINEAR, OTHER_LINEAR, ATTENTION = "linear", "other linear", "attention core"
NORM, ACTIVATION, EMBEDDING = "norm", "activation", "embedding"
OTHER, BETWEEN = "other operations", "between operations"
KINDS = (LINEAR, OTHER_LINEAR, ATTENTION, NORM, ACTIVATION, EMBEDDING, OTHER, BETWEEN)
"""linear: those that pruning makes smaller; other linear: heads, projections on a vocabulary, convolutions."""
PRUNED = (LINEAR, ATTENTION, ACTIVATION)
"""Kinds whose work grows with heads and neurons."""
