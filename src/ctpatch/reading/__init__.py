"""From a patch set to batches and predictions."""
