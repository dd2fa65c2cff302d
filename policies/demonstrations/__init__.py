"""Demonstrations: episodes in memory, stores on disk, embeddings, and readers of other formats."""
