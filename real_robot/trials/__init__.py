"""Measure the success rate of policies on an arm: poses, trials, statistics, and a report."""
