"""blocks in attention, whole neurons in the feed-forward part, then fill"""
