"""Frozen encoders: camera frames to embeddings, and how they are opened, streamed and checked."""
