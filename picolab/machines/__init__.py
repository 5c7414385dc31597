"""Machines: where the server under test runs, with limited memory."""
