"""A model's output for whole slices."""
