"""Recognition benchmarks of the paper: probes of frozen features on labelled images and videos."""
