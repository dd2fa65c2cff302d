"""Probes on frozen features: what a layer and a pool tell of a robot's world."""
