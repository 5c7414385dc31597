"""The agent: what runs inside a machine, free of dependencies."""
