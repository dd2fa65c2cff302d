"""Demonstrations: episodes in memory, stores on disk, embeddings, and other projects' formats."""
