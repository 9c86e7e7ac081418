"""A finished patch set, read by number."""
