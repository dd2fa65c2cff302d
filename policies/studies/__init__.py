"""Compare encoders by the success rates of policies: cells, statistics over seeds, and a report."""
