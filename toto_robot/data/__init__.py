"""Read images and videos as frames, tokenise the frames, and read tokens as training batches."""
