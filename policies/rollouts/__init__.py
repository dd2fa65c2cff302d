"""Run policies in environments: worker processes, seeds, success rates and videos."""
