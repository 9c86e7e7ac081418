"""Pseudonyms, and names for the terminal alone."""
