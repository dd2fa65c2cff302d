"""Train small probes on frozen features, to choose the layer and the pooling for a robot task."""
