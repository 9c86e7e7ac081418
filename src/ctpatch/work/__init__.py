"""The one engine for everything that is done in parts."""
