"""Statistics of windows, by NumPy or as machine code."""
