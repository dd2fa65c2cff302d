"""Linear probes on frozen features, to choose a layer and a pool for a robot's task."""
