"""The control loop: it runs episodes of an agent on an arm."""
