"""whole heads and whole neurons"""
