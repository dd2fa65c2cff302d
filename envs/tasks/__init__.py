"""The tasks: scene, start, rewards and success, one task per file."""
