"""Image and video files to frames, frames to tokens, tokens to training batches."""
