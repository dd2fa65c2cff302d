"""The control loop: ticks, answers, targets, and the way to rest."""
