"""Pure arithmetic on windows, patches, statistics and rules: no file, no layout, no manifest."""
