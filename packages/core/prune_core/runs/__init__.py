"""The life of a run: what it is told, what it does, what it leaves."""
