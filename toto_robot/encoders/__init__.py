"""Frozen encoders, which compute embeddings of camera frames; streams, caches and checks."""
