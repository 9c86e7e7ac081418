"""CT that is made up: anatomy and slices."""
