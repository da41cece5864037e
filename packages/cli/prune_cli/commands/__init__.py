"""The verbs, one a file. A verb imports what it needs when it runs, so that `prune --help` stays fast."""
