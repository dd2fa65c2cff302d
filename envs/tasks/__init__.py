"""What there is to do: scene, start, rewards and success of one task per file."""
