"""Learning: DAgger, behaviour cloning and PPO, and the fit that they share."""
