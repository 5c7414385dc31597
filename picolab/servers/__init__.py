"""Servers under test: their builds, and how they are spoken to."""
