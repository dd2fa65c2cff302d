"""Isaac Gym Preview 4, a simulator of many worlds, in a worker process with its own Python."""
