"""A comparison of builds: who is paired with whom, the numbers, the verdicts."""
