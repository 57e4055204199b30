"""Readers of files on the level of bytes: where rows are, whether they are JSON, and what a record holds."""
