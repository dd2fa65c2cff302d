"""Learning: DAgger and behaviour cloning with a shared fit, and PPO."""
