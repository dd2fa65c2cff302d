"""Anomaly scores of frames, calibrated thresholds, and a monitor that a robot runs."""
