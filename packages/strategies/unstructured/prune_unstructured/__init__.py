"""single weights anywhere, or n:m; smaller on disk, not faster by itself"""
