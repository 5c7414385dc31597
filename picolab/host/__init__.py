"""The host: its facts, processes and locks, and what it does during a trial."""
