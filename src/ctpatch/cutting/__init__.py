"""From prepared slices to a patch set."""
