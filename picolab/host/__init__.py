"""The host: its facts, processes and locks, and what it does beside a trial."""
