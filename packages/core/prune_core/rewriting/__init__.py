"""What is changed in a model beyond its masks: layers left out, simpler functions, int8 arithmetic."""
