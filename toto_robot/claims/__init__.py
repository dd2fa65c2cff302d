"""Re-test claims of the Toto paper: the runs that a claim needs, and the rules that decide it."""
