"""What is on disk beside pixels: manifests, tables and metas, by name and format version."""
