"""Probes: what is sent (payload) and what is watched meanwhile (memory)."""
