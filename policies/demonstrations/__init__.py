"""Demonstrations: episodes in memory and on disk, embeddings, and readers of other formats."""
