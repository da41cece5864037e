"""What strategies are made of. Import from the modules: this one is empty, so that listing plugins stays fast."""
