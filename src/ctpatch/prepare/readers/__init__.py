"""One folder for each kind of raw CT."""
