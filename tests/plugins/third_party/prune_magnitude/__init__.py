"""A strategy that is not ours: the plugin of docs/plugins.md."""
