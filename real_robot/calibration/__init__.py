"""Compute a camera's intrinsics and pose from images of a board; no module needs torch."""
