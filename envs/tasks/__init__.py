"""The manipulation tasks: each defines a scene, random starts, rewards and a success condition."""
