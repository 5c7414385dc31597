"""A campaign: runs a plan, one process a trial, and loses nothing that was measured."""
