"""Tiny random-weight checkpoints of every family and text tower, in hub layout, with the families' real settings."""
