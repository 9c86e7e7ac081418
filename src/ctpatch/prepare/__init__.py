"""From raw or made-up CT to prepared slices."""
