"""What strategies are made of. Import from the modules: nothing is imported here, so that listing plugins stays fast."""
