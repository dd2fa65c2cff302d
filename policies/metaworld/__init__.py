"""A benchmark of encoders on tasks of Meta-World, which runs in a Python environment of its own."""
