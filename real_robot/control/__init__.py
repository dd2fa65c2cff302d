"""Control loop: it runs an episode, in which an agent controls an arm at a fixed rate."""
