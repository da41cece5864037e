"""The prune command: one verb a file in commands/; nothing heavy is imported before a verb runs."""
