"""Scores of camera frames, calibrated thresholds, and a camera monitor for a running robot."""
