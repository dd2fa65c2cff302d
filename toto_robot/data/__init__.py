"""Files to frames to tokens to batches."""
