"""Models as folders: read, written, told by what they hold, and compacted from one into another."""
