"""Wrap third-party environments in one line, each in a virtual environment of its own."""
