"""blocks of weights in every linear; smaller on disk, whole heads and neurons where they empty"""
