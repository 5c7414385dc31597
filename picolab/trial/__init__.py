"""One trial: its stages, each of which can be run again."""
