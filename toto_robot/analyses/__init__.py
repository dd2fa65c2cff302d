"""The paper's own analyses, each a command with a plot and a CSV."""
