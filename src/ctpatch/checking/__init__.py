"""Whether a set is what it says, and whether splits leak."""
