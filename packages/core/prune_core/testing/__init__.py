"""Contract suites and tiny models, published for authors of plugins. Import from the modules: `contract`, `tiny`."""
