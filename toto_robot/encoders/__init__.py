"""Frozen encoders, which compute embeddings of camera frames, and their streams and caches."""
