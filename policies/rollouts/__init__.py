"""Rollouts of policies in environments: workers, seeds, success rates and videos."""
