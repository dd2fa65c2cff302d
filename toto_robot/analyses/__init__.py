"""Analyses of the paper; each is a command that writes a plot and a CSV file."""
