"""How often a policy succeeds: poses, verdicts, conclusions, a report."""
