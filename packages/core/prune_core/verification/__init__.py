"""Proofs: that models compute the same function, and that every unit has had a part in that."""
