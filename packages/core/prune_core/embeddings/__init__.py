"""Word embeddings: stored in few bits, or for the words that a corpus uses."""
