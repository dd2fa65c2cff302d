"""The analyses of the Toto paper. Each analysis is a command that writes a plot and a CSV file."""
