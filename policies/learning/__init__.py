"""Train policies: DAgger and behaviour cloning, which share the supervised fit, and PPO."""
