"""Images and masks told by their names: the names of usual data sets, or a pattern of the user."""
