"""What a student learns from: the teacher, and its lessons kept on disk."""
