"""Predicted slices against their targets: numbers for each slice, each patient and the set."""
