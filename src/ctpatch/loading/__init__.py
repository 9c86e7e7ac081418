"""Batches: which patches in which order, read ahead into memory that is used again."""
