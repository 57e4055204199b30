"""Readers for data files: byte offsets of rows, decompression, strict JSON and records in the DPR format."""
