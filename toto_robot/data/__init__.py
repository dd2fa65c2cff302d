"""Read images and videos as frames, tokenise frames, and read tokens as training batches."""
